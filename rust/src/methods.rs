//! Methods of Python's str, list and dict, which templates call as `x.method(...)`. Methods that change
//! their object are missing, as in transformers' immutable sandbox.
use crate::meter::{spend, visit};
use crate::python::{self, fail, is_space, type_name};
use fancy_regex::Regex;
use minijinja::value::{Enumerator, Kwargs, Object, ObjectRepr, Tuple, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};
use std::fmt;
use std::sync::{Arc, LazyLock};

/// Attributes of every dict. `x.items` is the method even if x has a key of that name.
pub const DICT_METHODS: [&str; 11] =
    ["clear", "copy", "fromkeys", "get", "items", "keys", "pop", "popitem", "setdefault", "update", "values"];

/// Positional and named arguments of one call.
pub struct Args {
    positional: Vec<Value>,
    named: Kwargs,
    used: usize,
}

impl Args {
    pub fn new(args: &[Value]) -> Result<Args, Error> {
        let (positional, named) = match args.split_last() {
            Some((last, rest)) if last.is_kwargs() => {
                (rest.to_vec(), from_args::<(Kwargs,)>(std::slice::from_ref(last))?.0)
            }
            _ => (args.to_vec(), from_args::<(Kwargs,)>(&[])?.0),
        };
        Ok(Args { positional, named, used: 0 })
    }

    /// The next parameter, by position or by name.
    pub fn next(&mut self, name: &str) -> Result<Option<Value>, Error> {
        self.used += 1;
        match self.positional.get(self.used - 1) {
            Some(value) => Ok(Some(value.clone())),
            None if self.named.has(name) => self.named.get::<Value>(name).map(Some),
            None => Ok(None),
        }
    }

    pub fn required(&mut self, name: &str) -> Result<Value, Error> {
        self.next(name)?.map_or_else(|| fail(format!("the argument {name} is missing")), Ok)
    }

    pub fn text(&mut self, name: &str) -> Result<String, Error> {
        text(&self.required(name)?)
    }

    /// Absent and None are equal.
    pub fn optional_text(&mut self, name: &str) -> Result<Option<String>, Error> {
        self.next(name)?.filter(|value| !value.is_none()).map(|value| text(&value)).transpose()
    }

    pub fn integer(&mut self, name: &str, otherwise: i64) -> Result<i64, Error> {
        Ok(self.optional_integer(name)?.unwrap_or(otherwise))
    }

    pub fn optional_integer(&mut self, name: &str) -> Result<Option<i64>, Error> {
        let value = self.next(name)?.filter(|value| !value.is_none());
        value
            .map(|value| {
                i64::try_from(value.clone())
                    .or_else(|_| fail(format!("an integer is required, not {}", type_name(&value))))
            })
            .transpose()
    }

    /// A required count of at least 1.
    pub fn count(&mut self, name: &str) -> Result<usize, Error> {
        let count = self.optional_integer(name)?.and_then(|count| usize::try_from(count).ok());
        count.filter(|count| *count > 0).map_or_else(|| fail(format!("{name} must be at least 1")), Ok)
    }

    pub fn flag(&mut self, name: &str) -> Result<bool, Error> {
        Ok(self.next(name)?.is_some_and(|value| value.is_true()))
    }

    pub fn finish(self) -> Result<(), Error> {
        if self.positional.len() > self.used {
            let (given, most) = (self.positional.len(), self.used);
            return Err(Error::new(
                ErrorKind::TooManyArguments,
                format!("{given} arguments given, but at most {most} allowed"),
            ));
        }
        self.named.assert_all_used()
    }
}

fn text(value: &Value) -> Result<String, Error> {
    value.as_str().map_or_else(
        || fail(format!("a str is required, not {}", type_name(value))),
        |text| Ok(text.to_string()),
    )
}

/// A method that was looked up but not called: `x.items`.
#[derive(Debug)]
struct Bound {
    object: Value,
    method: &'static str,
}

impl Object for Bound {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State, args: &[Value]) -> Result<Value, Error> {
        self.object.call_method(state, self.method, args)
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<method {}>", self.method)
    }
}

/// The result of dict.keys(), values() and items(): a list that prints with its name.
#[derive(Debug)]
pub struct View {
    pub name: &'static str,
    pub items: Vec<Value>,
}

impl View {
    pub fn value(name: &'static str, items: Vec<Value>) -> Value {
        Value::from_object(View { name, items })
    }
}

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.items.clone())
    }
}

pub fn bound(object: &Value, method: &'static str) -> Value {
    Value::from_object(Bound { object: object.clone(), method })
}

pub fn call(_: &mut State, object: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let mut args = Args::new(args)?;
    let answer = match object.kind() {
        ValueKind::String => string(object.as_str().unwrap_or_default(), method, &mut args)?,
        ValueKind::Map => dict(object, method, &mut args)?,
        ValueKind::Seq | ValueKind::Iterable => list(object, method, &mut args)?,
        _ => None,
    };
    let Some(answer) = answer else {
        return Err(Error::new(
            ErrorKind::UnknownMethod,
            format!("{} has no method {method}", type_name(object)),
        ));
    };
    args.finish()?;
    Ok(answer)
}

fn dict(object: &Value, method: &str, args: &mut Args) -> Result<Option<Value>, Error> {
    let keys = || Ok::<_, Error>(object.try_iter()?.collect::<Vec<_>>());
    Ok(Some(match method {
        "get" => {
            let key = args.required("key")?;
            let otherwise = args.next("default")?.unwrap_or_else(|| Value::from(()));
            object.get_item(&key).ok().filter(|value| !value.is_undefined()).unwrap_or(otherwise)
        }
        "keys" => View::value("dict_keys", keys()?),
        "values" => View::value(
            "dict_values",
            keys()?.iter().map(|key| object.get_item(key)).collect::<Result<Vec<_>, _>>()?,
        ),
        "items" => {
            let pair = |key: &Value| Ok(Value::from(Tuple::from([key.clone(), object.get_item(key)?])));
            View::value("dict_items", keys()?.iter().map(pair).collect::<Result<Vec<_>, Error>>()?)
        }
        "copy" => object.clone(),
        "clear" | "pop" | "popitem" | "setdefault" | "update" => return changes("dict", method),
        _ => return Ok(None),
    }))
}

fn list(object: &Value, method: &str, args: &mut Args) -> Result<Option<Value>, Error> {
    let equal = |what: &Value| {
        Ok::<_, Error>(
            object
                .try_iter()?
                .enumerate()
                .filter(|(_, item)| item == what)
                .map(|(i, _)| i)
                .collect::<Vec<_>>(),
        )
    };
    Ok(Some(match method {
        "count" => Value::from(equal(&args.required("value")?)?.len()),
        "index" => {
            let what = args.required("value")?;
            match equal(&what)?.first() {
                Some(index) => Value::from(*index),
                None => return fail("list.index(x): x not in list"),
            }
        }
        "copy" => object.clone(),
        "append" | "clear" | "extend" | "insert" | "pop" | "remove" | "reverse" | "sort" => {
            return changes("list", method);
        }
        _ => return Ok(None),
    }))
}

fn changes<T>(kind: &str, method: &str) -> Result<T, Error> {
    fail(format!("{kind}.{method} changes its object, which is forbidden in chat templates"))
}

fn string(s: &str, method: &str, args: &mut Args) -> Result<Option<Value>, Error> {
    spend(s.len())?;
    if let Some(answer) = string_question(s, method)? {
        return Ok(Some(Value::from(answer)));
    }
    Ok(Some(match method {
        "lower" => Value::from(s.to_lowercase()),
        "upper" => Value::from(s.to_uppercase()),
        "casefold" if s.is_ascii() => Value::from(s.to_lowercase()),
        "capitalize" => Value::from(capitalize(s)),
        "title" => Value::from(title(s)),
        "swapcase" => Value::from(
            s.chars()
                .flat_map(|c| {
                    if c.is_uppercase() {
                        c.to_lowercase().collect::<Vec<_>>()
                    } else {
                        c.to_uppercase().collect()
                    }
                })
                .collect::<String>(),
        ),
        "strip" => Value::from(strip(s, args, true, true)?),
        "lstrip" => Value::from(strip(s, args, true, false)?),
        "rstrip" => Value::from(strip(s, args, false, true)?),
        "removeprefix" => Value::from(s.strip_prefix(&*args.text("prefix")?).unwrap_or(s)),
        "removesuffix" => Value::from(s.strip_suffix(&*args.text("suffix")?).unwrap_or(s)),
        "startswith" => Value::from(affix(s, args, |s, affix| s.starts_with(affix))?),
        "endswith" => Value::from(affix(s, args, |s, affix| s.ends_with(affix))?),
        "split" => list_of(split(s, args)?)?,
        "rsplit" => list_of(rsplit(s, args)?)?,
        "splitlines" => Value::from(splitlines(s, args.flag("keepends")?)),
        "partition" => partition(s, args, false)?,
        "rpartition" => partition(s, args, true)?,
        "replace" => {
            let (old, new, count) = (args.text("old")?, args.text("new")?, args.integer("count", -1)?);
            Value::from(replace(s, &old, &new, count)?)
        }
        "join" => Value::from(join(s, args.required("iterable")?)?),
        "find" => find(s, args, |part, what| part.find(what))?.map_or(Value::from(-1), Value::from),
        "rfind" => find(s, args, |part, what| part.rfind(what))?.map_or(Value::from(-1), Value::from),
        "index" => find(s, args, |part, what| part.find(what))?
            .map_or_else(|| fail("substring not found"), |at| Ok(Value::from(at)))?,
        "rindex" => find(s, args, |part, what| part.rfind(what))?
            .map_or_else(|| fail("substring not found"), |at| Ok(Value::from(at)))?,
        "count" => {
            let what = args.text("sub")?;
            let (part, _) = range(s, args)?;
            Value::from(if what.is_empty() { part.chars().count() + 1 } else { part.matches(&*what).count() })
        }
        "ljust" | "rjust" | "center" | "zfill" => Value::from(justify(s, method, args)?),
        "format" => Value::from(str_format(s, args)?),
        _ => return Ok(None),
    }))
}

fn list_of(items: Vec<Value>) -> Result<Value, Error> {
    visit(items.len())?;
    Ok(Value::from(items))
}

/// Patterns of strings of one or more characters of a class, and of strings with an ideograph.
struct Classes {
    alpha: Regex,
    alnum: Regex,
    decimal: Regex,
    digit: Regex,
    numeric: Regex,
    ideograph: Regex,
}

static CLASSES: LazyLock<Classes> = LazyLock::new(|| {
    let regex = |pattern: &str| Regex::new(pattern).expect("a constant pattern");
    Classes {
        alpha: regex(r"\A\p{L}+\z"),
        alnum: regex(r"\A[\p{L}\p{N}]+\z"),
        decimal: regex(r"\A\p{Nd}+\z"),
        // Superscripts, subscripts and circled figures are digits in Python, but not decimal digits.
        digit: regex(r"\A[\p{Nd}²³¹⁰⁴-⁹₀-₉①-⑨⑴-⑼⒈-⒐⓪⓵-⓽⓿❶-❾➀-➈➊-➒]+\z"),
        numeric: regex(r"\A\p{N}+\z"),
        ideograph: regex(r"\p{Han}"),
    }
});

pub fn string_question(s: &str, method: &str) -> Result<Option<bool>, Error> {
    let matches = |class: &Regex| class.is_match(s).or_else(|error| fail(error.to_string()));
    let cased =
        |wanted: fn(char) -> bool, other: fn(char) -> bool| s.chars().any(wanted) && !s.chars().any(other);
    Ok(Some(match method {
        "isalpha" => matches(&CLASSES.alpha)?,
        "isalnum" => matches(&CLASSES.alnum)?,
        "isdecimal" => matches(&CLASSES.decimal)?,
        "isdigit" => matches(&CLASSES.digit)?,
        // Ideographs may be numerals, and no character class distinguishes them.
        "isnumeric" if !matches(&CLASSES.ideograph)? => matches(&CLASSES.numeric)?,
        "isascii" => s.is_ascii(),
        "isspace" => !s.is_empty() && s.chars().all(is_space),
        "islower" => cased(char::is_lowercase, char::is_uppercase),
        "isupper" => cased(char::is_uppercase, char::is_lowercase),
        _ => return Ok(None),
    }))
}

/// The character at the start of a word: ǆ becomes ǅ and ß becomes Ss.
fn title_case(c: char) -> String {
    match c {
        'Ǆ'..='ǆ' => "ǅ".into(),
        'Ǉ'..='ǉ' => "ǈ".into(),
        'Ǌ'..='ǌ' => "ǋ".into(),
        'Ǳ'..='ǳ' => "ǲ".into(),
        _ => {
            let mut upper = c.to_uppercase();
            upper.next().into_iter().chain(upper.flat_map(char::to_lowercase)).collect()
        }
    }
}

pub fn capitalize(s: &str) -> String {
    let mut chars = s.chars();
    chars.next().map_or_else(String::new, |first| title_case(first) + &chars.as_str().to_lowercase())
}

fn title(s: &str) -> String {
    let mut inside = false;
    let mut out = String::with_capacity(s.len());
    for c in s.chars() {
        if inside {
            out.extend(c.to_lowercase())
        } else {
            out += &title_case(c)
        }
        inside = c.is_lowercase() || c.is_uppercase();
    }
    out
}

fn strip(s: &str, args: &mut Args, left: bool, right: bool) -> Result<String, Error> {
    let set = args.optional_text("chars")?;
    let strips = |c: char| set.as_ref().map_or_else(|| is_space(c), |set| set.contains(c));
    let s = if left { s.trim_start_matches(strips) } else { s };
    Ok(if right { s.trim_end_matches(strips) } else { s }.to_string())
}

fn affix(s: &str, args: &mut Args, test: fn(&str, &str) -> bool) -> Result<bool, Error> {
    let what = args.required("prefix")?;
    let (part, _) = range(s, args)?;
    if what.is_tuple() {
        for option in what.try_iter()? {
            if test(&part, &text(&option)?) {
                return Ok(true);
            }
        }
        return Ok(false);
    }
    Ok(test(&part, &text(&what)?))
}

/// s[start:end] for the two optional arguments, and the number of characters before it.
fn range(s: &str, args: &mut Args) -> Result<(String, usize), Error> {
    let (start, end) = (args.optional_integer("start")?, args.optional_integer("end")?);
    if start.is_none() && end.is_none() {
        return Ok((s.to_string(), 0));
    }
    let length = s.chars().count() as i64;
    let place = |index: i64| if index < 0 { (index + length).max(0) } else { index.min(length) } as usize;
    let (start, end) = (place(start.unwrap_or(0)), place(end.unwrap_or(length)));
    Ok((s.chars().skip(start).take(end.saturating_sub(start)).collect(), start))
}

fn find(s: &str, args: &mut Args, search: fn(&str, &str) -> Option<usize>) -> Result<Option<usize>, Error> {
    let what = args.text("sub")?;
    let (part, before) = range(s, args)?;
    Ok(search(&part, &what).map(|at| before + part[..at].chars().count()))
}

fn split(s: &str, args: &mut Args) -> Result<Vec<Value>, Error> {
    let separator = args.optional_text("sep")?;
    let most = usize::try_from(args.integer("maxsplit", -1)?).map_or(usize::MAX, |n| n.saturating_add(1));
    if let Some(separator) = separator {
        if separator.is_empty() {
            return fail("empty separator");
        }
        return Ok(s.splitn(most, &*separator).map(Value::from).collect());
    }
    let mut parts = Vec::new();
    let mut rest = s.trim_start_matches(is_space);
    while !rest.is_empty() {
        if parts.len() + 1 == most {
            parts.push(Value::from(rest));
            break;
        }
        let end = rest.find(is_space).unwrap_or(rest.len());
        parts.push(Value::from(&rest[..end]));
        rest = rest[end..].trim_start_matches(is_space);
    }
    Ok(parts)
}

fn rsplit(s: &str, args: &mut Args) -> Result<Vec<Value>, Error> {
    let separator = args.optional_text("sep")?;
    let most = usize::try_from(args.integer("maxsplit", -1)?).map_or(usize::MAX, |n| n.saturating_add(1));
    let mut parts: Vec<Value> = Vec::new();
    if let Some(separator) = separator {
        if separator.is_empty() {
            return fail("empty separator");
        }
        parts = s.rsplitn(most, &*separator).map(Value::from).collect();
    } else {
        let mut rest = s.trim_end_matches(is_space);
        while !rest.is_empty() {
            if parts.len() + 1 == most {
                parts.push(Value::from(rest));
                break;
            }
            let start =
                rest.char_indices().rev().find(|(_, c)| is_space(*c)).map_or(0, |(at, c)| at + c.len_utf8());
            parts.push(Value::from(&rest[start..]));
            rest = rest[..start].trim_end_matches(is_space);
        }
    }
    parts.reverse();
    Ok(parts)
}

fn splitlines(s: &str, keep: bool) -> Vec<Value> {
    let ends = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut lines = Vec::new();
    let mut rest = s;
    while !rest.is_empty() {
        let (end, after) = match rest.find(ends) {
            Some(at) if rest[at..].starts_with("\r\n") => (at, at + 2),
            Some(at) => (at, at + rest[at..].chars().next().map_or(0, char::len_utf8)),
            None => (rest.len(), rest.len()),
        };
        lines.push(Value::from(&rest[..if keep { after } else { end }]));
        rest = &rest[after..];
    }
    lines
}

fn partition(s: &str, args: &mut Args, last: bool) -> Result<Value, Error> {
    let separator = args.text("sep")?;
    if separator.is_empty() {
        return fail("empty separator");
    }
    let parts = match if last { s.rsplit_once(&*separator) } else { s.split_once(&*separator) } {
        Some((before, after)) => [before, &separator, after],
        None if last => ["", "", s],
        None => [s, "", ""],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from))))
}

pub fn replace(s: &str, old: &str, new: &str, count: i64) -> Result<String, Error> {
    let most = usize::try_from(count).unwrap_or(usize::MAX);
    let found = if old.is_empty() { s.chars().count() + 1 } else { s.matches(old).count() };
    spend(s.len().saturating_add(found.min(most).saturating_mul(new.len())))?;
    Ok(s.replacen(old, new, most))
}

fn join(separator: &str, items: Value) -> Result<String, Error> {
    let mut out = String::new();
    for (i, item) in items.try_iter()?.enumerate() {
        let Some(item) = item.as_str() else {
            return fail(format!("sequence item {i}: expected str instance, {} found", type_name(&item)));
        };
        spend(separator.len() + item.len())?;
        spend_total(out.len())?;
        if i > 0 {
            out.push_str(separator);
        }
        out.push_str(item);
    }
    Ok(out)
}

/// A string that grows piece by piece was charged for its pieces; this only limits its length.
fn spend_total(length: usize) -> Result<(), Error> {
    if length > 1 << 16 { spend(length / 4096) } else { Ok(()) }
}

fn justify(s: &str, method: &str, args: &mut Args) -> Result<String, Error> {
    let width = usize::try_from(args.integer("width", 0)?).unwrap_or(0);
    let fill = if method == "zfill" {
        "0".into()
    } else {
        args.optional_text("fillchar")?.unwrap_or_else(|| " ".into())
    };
    if fill.chars().count() != 1 {
        return fail("The fill character must be exactly one character long");
    }
    spend(width.saturating_mul(fill.len()))?;
    let length = s.chars().count();
    let missing = width.saturating_sub(length);
    Ok(match method {
        "ljust" => format!("{s}{}", fill.repeat(missing)),
        "rjust" => format!("{}{s}", fill.repeat(missing)),
        "center" => {
            let left = missing / 2 + (missing & width & 1);
            format!("{}{s}{}", fill.repeat(left), fill.repeat(missing - left))
        }
        _ => {
            let sign = s.len() - s.trim_start_matches(['+', '-']).len().max(s.len() - 1);
            format!("{}{}{}", &s[..sign], fill.repeat(missing), &s[sign..])
        }
    })
}

/// str.format with automatic, numbered and named fields and no format specifications.
fn str_format(s: &str, args: &mut Args) -> Result<String, Error> {
    let mut out = String::new();
    let mut automatic = 0;
    let mut manual = false;
    let mut rest = s;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let brace = &rest[at..at + 1];
        rest = &rest[at + 1..];
        if rest.starts_with(brace) {
            out.push_str(brace);
            rest = &rest[1..];
            continue;
        }
        let Some(end) = rest.find('}').filter(|_| brace == "{") else {
            return fail("str.format: single '{' or '}' in the format string");
        };
        let field = &rest[..end];
        rest = &rest[end + 1..];
        if field.contains([':', '!', '.', '[', '{']) {
            return fail(format!(
                "str.format: the field {{{field}}} has a format specification, a conversion or an attribute, which is not supported"
            ));
        }
        let numbered = field.parse::<usize>();
        manual |= numbered.is_ok();
        if manual && field.is_empty() || numbered.is_ok() && automatic > 0 {
            return fail("str.format: automatic and manual field numbering cannot be mixed");
        }
        let value = match numbered {
            Ok(index) => args.positional.get(index).cloned(),
            Err(_) if field.is_empty() => {
                automatic += 1;
                args.positional.get(automatic - 1).cloned()
            }
            Err(_) => args.named.get::<Option<Value>>(field)?,
        };
        let Some(value) = value else {
            return fail(format!("str.format: there is no argument for {{{field}}}"));
        };
        let value = python::str(&value)?;
        spend(out.len() / 16 + value.len())?;
        out.push_str(&value);
    }
    args.used = args.positional.len();
    out.push_str(rest);
    Ok(out)
}
