//! Python's spelling of values: str(), repr() and json.dumps().
use crate::meter::spend;
use crate::methods::View;
use crate::sorting::Group;
use minijinja::value::{Enumerator, Object, ObjectRepr, Value, ValueKind};
use minijinja::{Error, ErrorKind};
use std::collections::HashMap;
use std::sync::Arc;

pub fn fail<T>(message: impl Into<String>) -> Result<T, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.into()))
}

/// The Python name of the value's type.
pub fn type_name(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::Undefined => "Undefined",
        ValueKind::None => "NoneType",
        ValueKind::Bool => "bool",
        ValueKind::Number if value.is_integer() => "int",
        ValueKind::Number => "float",
        ValueKind::String => "str",
        ValueKind::Bytes => "bytes",
        ValueKind::Map => "dict",
        ValueKind::Seq | ValueKind::Iterable if value.is_tuple() => "tuple",
        ValueKind::Seq | ValueKind::Iterable => "list",
        _ => "object",
    }
}

/// repr of a float: the shortest digits that round-trip, with an exponent below 1e-4 and from 1e16.
pub fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value == 0.0 || (-4..16).contains(&exponent) {
        let plain = format!("{value}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

fn number(value: &Value) -> String {
    if value.is_integer() {
        value.to_string()
    } else {
        f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float)
    }
}

/// str(value). An undefined value is the empty string, as in Jinja.
pub fn str(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(String::new()),
        ValueKind::String => Ok(value.as_str().unwrap_or_default().to_string()),
        _ => {
            let mut out = String::new();
            repr(value, &mut out, 0)?;
            spend(out.len())?;
            Ok(out)
        }
    }
}

/// The depth limit; a value that contains itself many times over is an error.
const DEPTH: usize = 100;

fn check_nesting(depth: usize, out: &str) -> Result<(), Error> {
    if depth > DEPTH {
        return fail(format!("a value nested deeper than {DEPTH} levels cannot be printed"));
    }
    // Charges while the text grows, because a short template can nest lists exponentially.
    spend(out.len() / 64 + 1)
}

pub fn repr(value: &Value, out: &mut String, depth: usize) -> Result<(), Error> {
    check_nesting(depth, out)?;
    match value.kind() {
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::String => quote(value.as_str().unwrap_or_default(), out),
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                separate(i, out);
                repr(&key, out, depth + 1)?;
                out.push_str(": ");
                repr(&value.get_item(&key)?, out, depth + 1)?;
            }
            out.push('}');
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let view = value.downcast_object_ref::<View>();
            if let Some(view) = view {
                out.push_str(view.name);
                out.push('(');
            }
            let tuple = value.is_tuple() || value.downcast_object_ref::<Group>().is_some();
            out.push(if tuple { '(' } else { '[' });
            for (i, item) in value.try_iter()?.enumerate() {
                separate(i, out);
                repr(&item, out, depth + 1)?;
            }
            if tuple && value.len() == Some(1) {
                out.push(',');
            }
            out.push(if tuple { ')' } else { ']' });
            if view.is_some() {
                out.push(')');
            }
        }
        _ => return fail("a function, method or other object of the template engine cannot be printed"),
    }
    Ok(())
}

fn separate(index: usize, out: &mut String) {
    if index > 0 {
        out.push_str(", ");
    }
}

fn quote(text: &str, out: &mut String) {
    let mark = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(mark);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == mark => out.extend(['\\', c]),
            c if printable(c) => out.push(c),
            c if (c as u32) < 0x100 => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if (c as u32) < 0x10000 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push_str(&format!("\\U{:08x}", c as u32)),
        }
    }
    out.push(mark);
}

/// str.isprintable. Debug formatting escapes unprintable characters; after another character it does not
/// escape combining marks, like Python.
fn printable(c: char) -> bool {
    (' '..='~').contains(&c)
        || !['a', c].iter().collect::<String>().escape_debug().skip(1).collect::<String>().starts_with("\\u{")
}

/// A dict in insertion order; for equal keys the last value counts.
#[derive(Debug, Default)]
pub struct Dict {
    keys: Vec<Value>,
    values: HashMap<Value, Value>,
}

impl Dict {
    pub fn value(items: impl IntoIterator<Item = (Value, Value)>) -> Value {
        let mut dict = Dict::default();
        for (key, value) in items {
            if dict.values.insert(key.clone(), value).is_none() {
                dict.keys.push(key);
            }
        }
        Value::from_object(dict)
    }
}

impl Object for Dict {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.values.get(key).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.keys.clone())
    }
}

/// Layout of json.dumps.
pub struct Json {
    pub ascii: bool,
    pub indent: Option<String>,
    pub sort_keys: bool,
    pub item_separator: String,
    pub key_separator: String,
}

impl Json {
    pub fn dumps(&self, value: &Value, out: &mut String, depth: usize) -> Result<(), Error> {
        check_nesting(depth, out)?;
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&json_number(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            ValueKind::Map => self.object(value, out, depth)?,
            ValueKind::Seq | ValueKind::Iterable if value.downcast_object_ref::<View>().is_none() => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.items('[', items, ']', out, depth, |item, out| self.dumps(&item, out, depth + 1))?;
            }
            _ => return fail(format!("Object of type {} is not JSON serializable", type_name(value))),
        }
        Ok(())
    }

    fn object(&self, value: &Value, out: &mut String, depth: usize) -> Result<(), Error> {
        let mut keys: Vec<Value> = value.try_iter()?.collect();
        if self.sort_keys {
            keys.sort();
        }
        self.items('{', keys, '}', out, depth, |key, out| {
            match key.kind() {
                ValueKind::String => self.string(key.as_str().unwrap_or_default(), out),
                ValueKind::None | ValueKind::Bool | ValueKind::Number => {
                    out.push('"');
                    self.dumps(&key, out, depth + 1)?;
                    out.push('"');
                }
                _ => {
                    return fail(format!(
                        "keys must be str, int, float, bool or None, not {}",
                        type_name(&key)
                    ));
                }
            }
            out.push_str(&self.key_separator);
            self.dumps(&value.get_item(&key)?, out, depth + 1)
        })
    }

    fn items(
        &self,
        open: char,
        items: Vec<Value>,
        close: char,
        out: &mut String,
        depth: usize,
        mut one: impl FnMut(Value, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        out.push(open);
        let empty = items.is_empty();
        for (i, item) in items.into_iter().enumerate() {
            if i > 0 {
                out.push_str(&self.item_separator);
            }
            self.line(depth + 1, out)?;
            one(item, out)?;
        }
        if !empty {
            self.line(depth, out)?;
        }
        out.push(close);
        Ok(())
    }

    fn line(&self, depth: usize, out: &mut String) -> Result<(), Error> {
        if let Some(indent) = &self.indent {
            spend(indent.len() * depth)?;
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
        Ok(())
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || (self.ascii && c > '~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

fn json_number(value: &Value) -> String {
    match number(value).as_str() {
        "nan" => "NaN".into(),
        "inf" => "Infinity".into(),
        "-inf" => "-Infinity".into(),
        text => text.into(),
    }
}

/// The white space of str.strip and str.split.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}
