//! The remaining budget of one rendering. A rendering runs on one thread, so its meter is thread-local.
//! The engine counts instructions; this module counts the bytes that they touch.
use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};
use std::cell::{Cell, RefCell};

thread_local! {
    static WORK: Cell<u64> = const { Cell::new(0) };
    static LONGEST: Cell<u64> = const { Cell::new(0) };
    static PRINTED: Cell<u64> = const { Cell::new(0) };
    static OUTCOME: RefCell<Option<Outcome>> = const { RefCell::new(None) };
}

/// Why a rendering stopped, if the error alone does not show it.
pub enum Outcome {
    Raised(String),
    Limit,
}

/// Text is printed again for every macro or block that captures it.
const CAPTURES: u64 = 8;

pub fn start(work_bytes: u64, longest: u64) {
    WORK.set(work_bytes);
    LONGEST.set(longest);
    PRINTED.set(longest.saturating_mul(CAPTURES));
    OUTCOME.set(None);
}

pub fn outcome() -> Option<Outcome> {
    OUTCOME.take()
}

pub fn raise(message: String) -> Error {
    OUTCOME.set(Some(Outcome::Raised(message.clone())));
    Error::new(ErrorKind::InvalidOperation, message)
}

/// Charges for a string or list of this many bytes before it is made.
pub fn spend(bytes: usize) -> Result<(), Error> {
    let bytes = bytes as u64;
    if bytes > LONGEST.get() {
        return Err(limit(format!("a string of more than {} bytes", LONGEST.get())));
    }
    match WORK.get().checked_sub(bytes) {
        Some(left) => WORK.set(left),
        None => return Err(limit("too much work on long strings".into())),
    }
    Ok(())
}

/// Charges for printed text.
pub fn print(bytes: usize) -> Result<(), Error> {
    spend(bytes)?;
    match PRINTED.get().checked_sub(bytes as u64) {
        Some(left) => PRINTED.set(left),
        None => return Err(limit("too much text is printed".into())),
    }
    Ok(())
}

/// Visiting one element of a list or map takes the time of this many bytes of text.
const ELEMENT: u64 = 256;

pub fn visit(elements: usize) -> Result<(), Error> {
    match WORK.get().checked_sub((elements as u64).saturating_mul(ELEMENT)) {
        Some(left) => WORK.set(left),
        None => return Err(limit("too much work on long lists".into())),
    }
    Ok(())
}

/// Charges for everything inside a value each time it is reached: a list may contain the same list
/// twice.
pub fn weigh(value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::String => spend(value.as_str().map_or(0, str::len)),
        ValueKind::Seq | ValueKind::Iterable => value.try_iter()?.try_for_each(|item| {
            visit(1)?;
            weigh(&item)
        }),
        ValueKind::Map => value.try_iter()?.try_for_each(|key| {
            visit(1)?;
            weigh(&value.get_item(&key)?)
        }),
        _ => Ok(()),
    }
}

fn limit(what: String) -> Error {
    OUTCOME.set(Some(Outcome::Limit));
    Error::new(ErrorKind::InvalidOperation, what)
}
