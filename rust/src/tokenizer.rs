//! tokenizer.json files. The splitting regular expressions run in our own `Splitter`, because the
//! crate's splitter silently ends the list of matches when a match reaches the backtracking limit.
use crate::{Answer, Failure, LIMIT, QtBytes, give, guard, slice, take, text};
use fancy_regex::{Regex, RegexBuilder};
use serde::{Deserialize, Deserializer, de::Error};
use std::cell::Cell;
use std::ffi::c_char;
use tokenizers::tokenizer::pattern::{Invert, Pattern};
use tokenizers::{
    DecoderWrapper, ModelWrapper, NormalizerWrapper, Offsets, PostProcessorWrapper, PreTokenizedString,
    PreTokenizer, PreTokenizerWrapper, SplitDelimiterBehavior, TokenizerImpl,
};

/// The splitting pattern of ByteLevel with `use_regex`.
const BYTE_LEVEL: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

thread_local! {
    /// Passes the limit for the patterns to deserialization, which takes no arguments.
    static BACKTRACKS: Cell<usize> = const { Cell::new(0) };
}

/// The end of most byte-level tokenizers' patterns: a run of white space, without its last character if
/// a word follows.
const RUN: &str = r"|\s+(?!\S)|\s+";

/// A splitting pattern. fancy-regex stores a backtracking step for every character of a run before a
/// look-ahead, and fails on long runs; if the pattern ends in `RUN`, this code matches that part itself.
struct Matcher {
    regex: Regex,
    by_hand: bool,
}

impl Matcher {
    fn new(pattern: &str) -> Result<Matcher, String> {
        let head = pattern.strip_suffix(RUN);
        let source = head.map_or_else(|| pattern.to_string(), |head| format!(r"{head}|(?<run>\s+)"));
        let regex = RegexBuilder::new(&source).backtrack_limit(BACKTRACKS.get()).build();
        let regex = regex.map_err(|e| format!("pre_tokenizer pattern {pattern:?}: {e}"))?;
        Ok(Matcher { regex, by_hand: head.is_some() })
    }

    /// The end of the whole pattern's match.
    fn end(&self, text: &str, start: usize, end: usize) -> tokenizers::Result<usize> {
        let word_follows = text[end..].chars().next().is_some_and(|c| !c.is_whitespace());
        let run = &text[start..end];
        let Some(last) = run.chars().next_back().filter(|c| c.is_whitespace() && c.len_utf8() < run.len())
        else {
            return Ok(end);
        };
        if !self.by_hand || !word_follows {
            return Ok(end);
        }
        let captures = self.regex.captures_from_pos(text, start)?;
        let is_run = captures.is_some_and(|captures| captures.name("run").is_some());
        Ok(if is_run { end - last.len_utf8() } else { end })
    }
}

impl Pattern for &Matcher {
    fn find_matches(&self, text: &str) -> tokenizers::Result<Vec<(Offsets, bool)>> {
        if text.is_empty() {
            return Ok(vec![((0, 0), false)]);
        }
        let mut parts = Vec::new();
        let (mut done, mut at) = (0, 0);
        while at <= text.len() {
            let Some(found) = self.regex.find_from_pos(text, at)? else { break };
            let (start, end) = (found.start(), self.end(text, found.start(), found.end())?);
            if done != start {
                parts.push(((done, start), false));
            }
            parts.push(((start, end), true));
            done = end;
            // After an empty match the search continues at the next character.
            at = if end > start { end } else { end + text[end..].chars().next().map_or(1, char::len_utf8) };
        }
        if done != text.len() {
            parts.push(((done, text.len()), false));
        }
        Ok(parts)
    }
}

/// A pre-tokenizer that reports failures of its regular expressions.
enum Splitter {
    Regex { matcher: Matcher, behavior: SplitDelimiterBehavior, invert: bool },
    Sequence(Vec<Splitter>),
    Other(PreTokenizerWrapper),
}

impl Splitter {
    fn regex(pattern: &str, behavior: SplitDelimiterBehavior, invert: bool) -> Result<Splitter, String> {
        let matcher = Matcher::new(pattern)?;
        Ok(Splitter::Regex { matcher, behavior, invert })
    }

    fn read(value: serde_json::Value) -> Result<Splitter, String> {
        let other = |value| {
            Ok(Splitter::Other(serde_json::from_value(value).map_err(|e| format!("pre_tokenizer: {e}"))?))
        };
        let flag = |key: &str, otherwise: bool| value[key].as_bool().unwrap_or(otherwise);
        match value["type"].as_str() {
            Some("Sequence") => {
                let parts = value["pretokenizers"]
                    .as_array()
                    .cloned()
                    .ok_or("pre_tokenizer: a Sequence without pretokenizers")?;
                Ok(Splitter::Sequence(parts.into_iter().map(Splitter::read).collect::<Result<_, _>>()?))
            }
            Some("Split") => match value["pattern"]["Regex"].as_str() {
                Some(pattern) => {
                    let behavior = serde_json::from_value(value["behavior"].clone())
                        .map_err(|e| format!("pre_tokenizer behavior: {e}"))?;
                    Splitter::regex(pattern, behavior, flag("invert", false))
                }
                None => other(value),
            },
            Some("ByteLevel") if flag("use_regex", true) && !flag("add_prefix_space", true) => {
                let mut bytes = value.clone();
                bytes["use_regex"] = false.into();
                let split = Splitter::regex(BYTE_LEVEL, SplitDelimiterBehavior::Isolated, false)?;
                Ok(Splitter::Sequence(vec![split, other(bytes)?]))
            }
            _ => other(value),
        }
    }
}

impl<'de> Deserialize<'de> for Splitter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Splitter, D::Error> {
        Splitter::read(serde_json::Value::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl PreTokenizer for Splitter {
    fn pre_tokenize(&self, text: &mut PreTokenizedString) -> tokenizers::Result<()> {
        match self {
            Splitter::Regex { matcher, behavior, invert: false } => {
                text.split(|_, part| part.split(matcher, *behavior))
            }
            Splitter::Regex { matcher, behavior, invert: true } => {
                text.split(|_, part| part.split(Invert(matcher), *behavior))
            }
            Splitter::Sequence(parts) => parts.iter().try_for_each(|part| part.pre_tokenize(text)),
            Splitter::Other(wrapper) => wrapper.pre_tokenize(text),
        }
    }
}

type Tokenizer =
    TokenizerImpl<ModelWrapper, NormalizerWrapper, Splitter, PostProcessorWrapper, DecoderWrapper>;

pub struct QtTokenizer {
    tokenizer: Tokenizer,
    ids: u32,
}

impl QtTokenizer {
    fn new(json: &[u8], backtracks: u64) -> Answer<QtTokenizer> {
        BACKTRACKS.set(backtracks as usize);
        let mut tokenizer: Tokenizer = serde_json::from_slice(json)?;
        // Padding and truncation are training settings that were saved with the vocabulary; a server
        // that applied them would silently cut prompts.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None)?;
        let ids = tokenizer.get_vocab(true).into_values().max().map_or(0, |id| id + 1);
        Ok(QtTokenizer { tokenizer, ids })
    }

    fn encode(&self, text: &str, add_special: bool) -> Answer<Vec<u8>> {
        let encoding = self.tokenizer.encode_fast(text, add_special).map_err(|error| match error
            .downcast_ref::<fancy_regex::Error>(
        ) {
            Some(reason) => Failure(LIMIT, format!("the tokenizer's splitting pattern failed: {reason}")),
            None => Failure::from(error),
        })?;
        Ok(encoding.get_ids().iter().flat_map(|id| id.to_ne_bytes()).collect())
    }
}

/// # Safety
/// See the header for this and all functions below.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qt_tokenizer_new(
    json: *const c_char,
    size: usize,
    backtracks: u64,
    tokenizer: *mut *mut QtTokenizer,
    message: *mut QtBytes,
) -> i32 {
    unsafe {
        guard(message, || give(tokenizer, QtTokenizer::new(slice(json as *const u8, size), backtracks)?))
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qt_tokenizer_free(tokenizer: *mut QtTokenizer) {
    unsafe { take(tokenizer) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qt_tokenizer_encode(
    tokenizer: *const QtTokenizer,
    data: *const c_char,
    size: usize,
    add_special: i32,
    out: *mut QtBytes,
) -> i32 {
    unsafe { guard(out, || (*tokenizer).encode(text(data, size)?, add_special != 0)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qt_tokenizer_decode(
    tokenizer: *const QtTokenizer,
    ids: *const u32,
    count: usize,
    skip_special: i32,
    out: *mut QtBytes,
) -> i32 {
    unsafe {
        guard(out, || Ok((*tokenizer).tokenizer.decode(slice(ids, count), skip_special != 0)?.into_bytes()))
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qt_tokenizer_ids(tokenizer: *const QtTokenizer) -> u32 {
    unsafe { (*tokenizer).ids }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qt_tokenizer_token(
    tokenizer: *const QtTokenizer,
    id: u32,
    out: *mut QtBytes,
) -> i32 {
    unsafe { guard(out, || Ok((*tokenizer).tokenizer.id_to_token(id).ok_or("no such token")?.into_bytes())) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qt_tokenizer_id(
    tokenizer: *const QtTokenizer,
    data: *const c_char,
    size: usize,
    id: *mut u32,
) -> i32 {
    let find =
        || unsafe { text(data, size).ok().and_then(|token| (*tokenizer).tokenizer.token_to_id(token)) };
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(find)) {
        Ok(Some(found)) => {
            unsafe { id.write(found) };
            crate::OK
        }
        Ok(None) => crate::FAILED,
        Err(_) => crate::PANIC,
    }
}
