//! What one rendering may still spend. A rendering runs on one thread, so its meter is a thread-local
//! value; the engine counts instructions itself, this counts the bytes that they touch.
use minijinja::{Error, ErrorKind};
use std::cell::{Cell, RefCell};

thread_local! {
    static WORK: Cell<u64> = const { Cell::new(0) };
    static LONGEST: Cell<u64> = const { Cell::new(0) };
    static OUTCOME: RefCell<Option<Outcome>> = const { RefCell::new(None) };
}

/// Why a rendering stopped, where the error alone does not tell.
pub enum Outcome {
    Raised(String),
    Limit,
}

pub fn start(work_bytes: u64, longest: u64) {
    WORK.set(work_bytes);
    LONGEST.set(longest);
    OUTCOME.set(None);
}

pub fn outcome() -> Option<Outcome> {
    OUTCOME.take()
}

pub fn raise(message: String) -> Error {
    OUTCOME.set(Some(Outcome::Raised(message.clone())));
    Error::new(ErrorKind::InvalidOperation, message)
}

/// Pays for a string of this length, or a list of so many bytes, before it is made.
pub fn spend(bytes: usize) -> Result<(), Error> {
    let bytes = bytes as u64;
    if bytes > LONGEST.get() {
        return Err(limit(format!("a text of more than {} bytes", LONGEST.get())));
    }
    match WORK.get().checked_sub(bytes) {
        Some(left) => WORK.set(left),
        None => return Err(limit("too much work on long texts".into())),
    }
    Ok(())
}

fn limit(what: String) -> Error {
    OUTCOME.set(Some(Outcome::Limit));
    Error::new(ErrorKind::InvalidOperation, what)
}
