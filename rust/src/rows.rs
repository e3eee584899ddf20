//! Rows of a parquet file as JSON objects, row group by row group.
use crate::{Answer, END, Failure, LIMIT, QtBytes, give, guard, take, text};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use serde_json::Value;
use std::ffi::c_char;
use std::fs::File;

pub struct QtRows {
    rows: RowIter<'static>,
    count: u64,
    row_bytes: u64,
}

impl QtRows {
    fn open(path: &str, row_bytes: u64) -> Answer<QtRows> {
        let reader = SerializedFileReader::new(File::open(path)?)?;
        let count = u64::try_from(reader.metadata().file_metadata().num_rows())?;
        Ok(QtRows { rows: RowIter::from_file_into(Box::new(reader)), count, row_bytes })
    }

    fn skip(&mut self, count: u64) -> Answer<Vec<u8>> {
        for _ in 0..count {
            self.rows.next().ok_or_else(|| Failure(END, String::new()))??;
        }
        Ok(Vec::new())
    }

    fn next(&mut self) -> Answer<Vec<u8>> {
        let Some(row) = self.rows.next() else {
            return Err(Failure(END, String::new()));
        };
        let bytes = serde_json::to_vec(&object(&row?)?)?;
        if bytes.len() as u64 > self.row_bytes {
            return Err(Failure(
                LIMIT,
                format!("a row of {} bytes exceeds the limit of {}", bytes.len(), self.row_bytes),
            ));
        }
        Ok(bytes)
    }
}

fn object(row: &Row) -> Answer<Value> {
    let columns = row.get_column_iter().map(|(name, field)| Ok((name.clone(), json(name, field)?)));
    Ok(Value::Object(columns.collect::<Answer<_>>()?))
}

fn json(name: &str, field: &Field) -> Answer<Value> {
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(x) => (*x).into(),
        Field::Byte(x) => (*x).into(),
        Field::Short(x) => (*x).into(),
        Field::Int(x) => (*x).into(),
        Field::Long(x) => (*x).into(),
        Field::UByte(x) => (*x).into(),
        Field::UShort(x) => (*x).into(),
        Field::UInt(x) => (*x).into(),
        Field::ULong(x) => (*x).into(),
        Field::Float(x) => (*x).into(),
        Field::Double(x) => (*x).into(),
        Field::Str(x) => x.as_str().into(),
        // Some writers omit the annotation for text.
        Field::Bytes(x) => std::str::from_utf8(x.data())
            .map_err(|_| format!("column {name} contains bytes that are not UTF-8"))?
            .into(),
        Field::Group(row) => object(row)?,
        Field::ListInternal(list) => {
            Value::Array(list.elements().iter().map(|item| json(name, item)).collect::<Answer<_>>()?)
        }
        Field::MapInternal(map) => {
            let entry = |(key, value): &(Field, Field)| match json(name, key)? {
                Value::String(key) => Ok((key, json(name, value)?)),
                _ => Err(Failure::from(format!("column {name} contains a map with keys that are not text"))),
            };
            Value::Object(map.entries().iter().map(entry).collect::<Answer<_>>()?)
        }
        other => other.to_string().into(),
    })
}

/// # Safety
/// See the header for this and all functions below.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qt_rows_open(
    path: *const c_char,
    size: usize,
    row_bytes: u64,
    rows: *mut *mut QtRows,
    message: *mut QtBytes,
) -> i32 {
    unsafe { guard(message, || give(rows, QtRows::open(text(path, size)?, row_bytes)?)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qt_rows_count(rows: *const QtRows) -> u64 {
    unsafe { (*rows).count }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qt_rows_skip(rows: *mut QtRows, count: u64, message: *mut QtBytes) -> i32 {
    unsafe { guard(message, || (*rows).skip(count)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qt_rows_next(rows: *mut QtRows, out: *mut QtBytes) -> i32 {
    unsafe { guard(out, || (*rows).next()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qt_rows_free(rows: *mut QtRows) {
    unsafe { take(rows) }
}
