//! tokenizer.json files. The splitting regular expressions run in our own `Splitter`, because the
//! crate's own ends the list of matches without a word when a match reaches the backtracking limit.
use crate::{Answer, Failure, LIMIT, QtBytes, give, guard, slice, take, text};
use fancy_regex::{Regex, RegexBuilder};
use serde::{Deserialize, Deserializer, de::Error};
use std::cell::Cell;
use std::ffi::c_char;
use tokenizers::tokenizer::pattern::Invert;
use tokenizers::{
    DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizedString, PreTokenizer,
    PreTokenizerWrapper, SplitDelimiterBehavior, TokenizerImpl,
};

/// What ByteLevel splits by when `use_regex` is set.
const BYTE_LEVEL: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

thread_local! {
    /// Deserializing takes no arguments, so the limit for the patterns goes by this way.
    static BACKTRACKS: Cell<usize> = const { Cell::new(0) };
}

/// A pre-tokenizer whose regular expressions fail loudly.
enum Splitter {
    Regex { regex: Regex, behavior: SplitDelimiterBehavior, invert: bool },
    Sequence(Vec<Splitter>),
    Other(PreTokenizerWrapper),
}

impl Splitter {
    fn regex(pattern: &str, behavior: SplitDelimiterBehavior, invert: bool) -> Result<Splitter, String> {
        let mut builder = RegexBuilder::new(pattern);
        let regex = builder.backtrack_limit(BACKTRACKS.get()).build();
        let regex = regex.map_err(|e| format!("pre_tokenizer pattern {pattern:?}: {e}"))?;
        Ok(Splitter::Regex { regex, behavior, invert })
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
            Splitter::Regex { regex, behavior, invert: false } => {
                text.split(|_, part| part.split(regex, *behavior))
            }
            Splitter::Regex { regex, behavior, invert: true } => {
                text.split(|_, part| part.split(Invert(regex), *behavior))
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
        // Padding and truncation belong to a training set-up that was saved with the vocabulary; a
        // server that lets them act would silently cut prompts.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None)?;
        let ids = tokenizer.get_vocab(true).into_values().max().map_or(0, |id| id + 1);
        Ok(QtTokenizer { tokenizer, ids })
    }

    fn encode(&self, text: &str, add_special: bool) -> Answer<Vec<u8>> {
        let encoding = self.tokenizer.encode_fast(text, add_special).map_err(|error| match error
            .downcast_ref::<fancy_regex::Error>(
        ) {
            Some(reason) => Failure(LIMIT, format!("the tokenizer's splitting pattern gave up: {reason}")),
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
