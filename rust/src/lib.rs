//! Rust libraries for text, behind a C ABI; the contract is include/quern_text_ffi.h. Every entry point
//! runs inside `guard`, which turns errors and panics into statuses.
use std::any::Any;
use std::ffi::c_char;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

mod dialect;
mod filters;
mod format;
mod macros;
mod meter;
mod methods;
mod pattern;
mod python;
mod rows;
mod sorting;
mod template;
mod tokenizer;

pub use pattern::QtPattern;
pub use rows::QtRows;
pub use template::{QtTemplate, QtTemplateLimits, QtTime};
pub use tokenizer::QtTokenizer;

pub const OK: i32 = 0;
pub const FAILED: i32 = 1;
pub const RAISED: i32 = 2;
pub const LIMIT: i32 = 3;
pub const END: i32 = 4;
pub const PANIC: i32 = 5;

/// A status other than OK, with its message.
pub struct Failure(pub i32, pub String);

impl<E: ToString> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure(FAILED, error.to_string())
    }
}

pub type Answer<T> = Result<T, Failure>;

/// Bytes that the caller returns to `qt_free`.
#[repr(C)]
pub struct QtBytes {
    data: *mut u8,
    size: usize,
}

impl QtBytes {
    fn new(bytes: Vec<u8>) -> QtBytes {
        let bytes = bytes.into_boxed_slice();
        let size = bytes.len();
        QtBytes { data: Box::into_raw(bytes) as *mut u8, size }
    }
}

/// # Safety
/// `bytes` must come from this library, once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qt_free(bytes: QtBytes) {
    if !bytes.data.is_null() {
        drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(bytes.data, bytes.size)) })
    }
}

/// Stores the bytes of `work`, or the message of its failure, in `out`.
///
/// # Safety
/// `out` must be writable.
unsafe fn guard(out: *mut QtBytes, work: impl FnOnce() -> Answer<Vec<u8>>) -> i32 {
    static SILENCE: Once = Once::new();
    SILENCE.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    let (status, bytes) = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(bytes)) => (OK, bytes),
        Ok(Err(Failure(status, message))) => (status, message.into_bytes()),
        Err(panic) => (PANIC, panic_text(&*panic).as_bytes().to_vec()),
    };
    unsafe { out.write(QtBytes::new(bytes)) };
    status
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("panic")
}

/// Templates can nest expressions and values deeply, and the engine recurses over them. A stack of this
/// size suffices for all limits; only touched pages use memory.
const STACK_BYTES: usize = 256 << 20;

fn on_large_stack<T: Send>(work: impl FnOnce() -> Answer<T> + Send) -> Answer<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// # Safety
/// `data` must be readable for `size` elements; it may be null if `size` is 0.
unsafe fn slice<'a, T>(data: *const T, size: usize) -> &'a [T] {
    if size == 0 { &[] } else { unsafe { std::slice::from_raw_parts(data, size) } }
}

/// # Safety
/// As `slice`.
unsafe fn text<'a>(data: *const c_char, size: usize) -> Answer<&'a str> {
    let bytes = unsafe { slice(data as *const u8, size) };
    std::str::from_utf8(bytes).map_err(|e| format!("not valid UTF-8 at byte {}", e.valid_up_to()).into())
}

/// Hands a new object to the caller.
///
/// # Safety
/// `to` must be writable.
unsafe fn give<T>(to: *mut *mut T, object: T) -> Answer<Vec<u8>> {
    unsafe { to.write(Box::into_raw(Box::new(object))) };
    Ok(Vec::new())
}

/// # Safety
/// `object` must come from `give`, once; it may be null.
unsafe fn take<T>(object: *mut T) {
    if !object.is_null() {
        drop(unsafe { Box::from_raw(object) })
    }
}
