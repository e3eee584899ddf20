//! Python's `re.match` with fancy-regex: anchored at the start only, with a limit on backtracking.
use crate::{Answer, Failure, LIMIT, QtBytes, give, guard, take, text};
use fancy_regex::{Regex, RegexBuilder};
use std::ffi::c_char;

pub struct QtPattern(Regex);

impl QtPattern {
    fn new(pattern: &str, backtracks: u64) -> Answer<QtPattern> {
        let anchored = format!("\\A(?:{pattern})");
        Ok(QtPattern(RegexBuilder::new(&anchored).backtrack_limit(backtracks as usize).build()?))
    }

    fn matches(&self, text: &str) -> Answer<bool> {
        self.0.is_match(text).map_err(|error| Failure(LIMIT, error.to_string()))
    }
}

/// # Safety
/// See the header for this and all functions below.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qt_pattern_new(
    regex: *const c_char,
    size: usize,
    backtracks: u64,
    pattern: *mut *mut QtPattern,
    message: *mut QtBytes,
) -> i32 {
    unsafe { guard(message, || give(pattern, QtPattern::new(text(regex, size)?, backtracks)?)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qt_pattern_match(
    pattern: *const QtPattern,
    data: *const c_char,
    size: usize,
    matched: *mut i32,
    message: *mut QtBytes,
) -> i32 {
    unsafe {
        guard(message, || {
            matched.write((*pattern).matches(text(data, size)?)? as i32);
            Ok(Vec::new())
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qt_pattern_free(pattern: *mut QtPattern) {
    unsafe { take(pattern) }
}
