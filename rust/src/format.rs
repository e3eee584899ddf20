//! The `%` operator and the `format` filter: Python's printf-style formatting.
use crate::meter::spend;
use crate::python::{self, fail, type_name};
use minijinja::Error;
use minijinja::formatting::FormatStyle;
use minijinja::value::{Value, ValueKind};

/// One `%` directive.
struct Directive<'a> {
    text: &'a str,
    key: Option<&'a str>,
    left: bool,
    width: usize,
    precision: Option<usize>,
    conversion: char,
}

pub fn printf(format: &str, args: &Value) -> Result<String, Error> {
    let mut values = Positional::new(args)?;
    let mut out = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let directive = parse(&rest[at..])?;
        rest = &rest[at + directive.text.len()..];
        spend(directive.width + directive.precision.unwrap_or(0) + out.len() / 16)?;
        match directive.conversion {
            '%' => out.push('%'),
            conversion => {
                let value = match directive.key {
                    Some(key) => args.get_item(&Value::from(key))?,
                    None => values.next()?,
                };
                out.push_str(&convert(&directive, conversion, &value)?);
            }
        }
    }
    out.push_str(rest);
    values.finish()?;
    Ok(out)
}

fn parse(text: &str) -> Result<Directive<'_>, Error> {
    let incomplete = || Error::new(minijinja::ErrorKind::InvalidOperation, "incomplete format");
    let mut at = 1;
    let mut key = None;
    if text[at..].starts_with('(') {
        let end = text.find(')').ok_or_else(incomplete)?;
        key = Some(&text[at + 1..end]);
        at = end + 1;
    }
    let digits = |at: &mut usize| {
        let start = *at;
        *at += text[start..].bytes().take_while(u8::is_ascii_digit).count();
        text[start..*at].parse::<usize>().ok()
    };
    let flags = at;
    at += text[at..].bytes().take_while(|b| b"-+ 0#".contains(b)).count();
    let left = text[flags..at].contains('-');
    let width = digits(&mut at).unwrap_or(0);
    let mut precision = None;
    if text[at..].starts_with('.') {
        at += 1;
        precision = Some(digits(&mut at).unwrap_or(0));
    }
    let conversion = text[at..].chars().next().ok_or_else(incomplete)?;
    Ok(Directive { text: &text[..at + conversion.len_utf8()], key, left, width, precision, conversion })
}

fn convert(directive: &Directive, conversion: char, value: &Value) -> Result<String, Error> {
    match conversion {
        's' | 'r' | 'c' => {
            let mut text = String::new();
            match conversion {
                's' => text = python::str(value)?,
                'c' => text = character(value)?,
                _ => python::repr(value, &mut text, 0)?,
            }
            if let Some(precision) = directive.precision {
                text = text.chars().take(precision).collect();
            }
            let padding = " ".repeat(directive.width.saturating_sub(text.chars().count()));
            Ok(if directive.left { text + &padding } else { padding + &text })
        }
        'd' | 'i' | 'u' | 'f' | 'F' | 'e' | 'E' | 'g' | 'G' | 'x' | 'X' | 'o' => {
            if !matches!(value.kind(), ValueKind::Number | ValueKind::Bool) {
                return fail(format!("%{conversion} format: a number is required, not {}", type_name(value)));
            }
            let spec = match directive.key {
                Some(key) => directive.text.replacen(&format!("({key})"), "", 1),
                None => directive.text.to_string(),
            };
            minijinja::formatting::format(FormatStyle::Printf, &spec, std::slice::from_ref(value))
        }
        other => fail(format!("unsupported format character '{other}'")),
    }
}

fn character(value: &Value) -> Result<String, Error> {
    let code = value.as_i64().and_then(|code| u32::try_from(code).ok()).and_then(char::from_u32);
    match (code, value.as_str()) {
        (Some(c), _) => Ok(c.to_string()),
        (None, Some(text)) if text.chars().count() == 1 => Ok(text.to_string()),
        _ => fail(format!("%c requires an int or a unicode character, not {}", type_name(value))),
    }
}

/// The values on the right of `%`: a tuple is several values, anything else is one.
struct Positional {
    values: std::vec::IntoIter<Value>,
    named: bool,
}

impl Positional {
    fn new(args: &Value) -> Result<Positional, Error> {
        let values = if args.is_tuple() { args.try_iter()?.collect() } else { vec![args.clone()] };
        Ok(Positional { values: values.into_iter(), named: args.kind() == ValueKind::Map })
    }

    fn next(&mut self) -> Result<Value, Error> {
        self.values.next().map_or_else(|| fail("not enough arguments for format string"), Ok)
    }

    fn finish(mut self) -> Result<(), Error> {
        match self.values.next() {
            Some(_) if !self.named => fail("not all arguments converted during string formatting"),
            _ => Ok(()),
        }
    }
}
