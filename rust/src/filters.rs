//! The filters and tests of Jinja2: those of the engine if they agree, otherwise our own, and none that
//! Jinja2 lacks. Each is charged for the bytes that it reads and writes.
use crate::dialect;
use crate::format::printf;
use crate::meter::{spend, visit, weigh};
use crate::methods::{self, Args};
use crate::python::{self, Json, fail, is_space};
use crate::sorting;
use crate::template::Myself;
use minijinja::value::{Rest, Tuple, Value, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, filters as engine};

pub fn add_filters(environment: &mut Environment) {
    for name in ["split", "lines", "bool", "chain", "zip", "pprint"] {
        environment.remove_filter(name);
    }
    let shared = [
        ("upper", Value::from_function(engine::upper)),
        ("lower", Value::from_function(engine::lower)),
        ("title", Value::from_function(engine::title)),
        ("reverse", Value::from_function(engine::reverse)),
        ("list", Value::from_function(engine::list)),
        ("first", Value::from_function(engine::first)),
        ("abs", Value::from_function(engine::abs)),
        ("attr", Value::from_function(engine::attr)),
        ("map", Value::from_function(engine::map)),
        ("select", Value::from_function(engine::select)),
        ("reject", Value::from_function(engine::reject)),
        ("selectattr", Value::from_function(engine::selectattr)),
        ("rejectattr", Value::from_function(engine::rejectattr)),
        ("last", Value::from_function(engine::last)),
    ];
    for (name, filter) in shared {
        environment.add_filter(name, move |state: &mut State, args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            args.iter().try_for_each(weigh)?;
            filter.call(state, &args).map_err(|error| named(error, name))
        });
    }
    own(environment, "string", |value, _| python::str(value).map(Value::from));
    own(environment, "safe", |value, _| python::str(value).map(Value::from));
    own(environment, "e", |value, _| escape(value));
    own(environment, "escape", |value, _| escape(value));
    own(environment, "forceescape", |value, _| escape(value));
    own(environment, "length", |value, _| length(value));
    own(environment, "count", |value, _| length(value));
    own(environment, "capitalize", |value, _| Ok(Value::from(methods::capitalize(&python::str(value)?))));
    own(environment, "default", default);
    own(environment, "d", default);
    own(environment, "sort", sorting::sort);
    own(environment, "dictsort", sorting::dictsort);
    own(environment, "unique", sorting::unique);
    own(environment, "min", sorting::min);
    own(environment, "max", sorting::max);
    own(environment, "groupby", sorting::groupby);
    own(environment, "batch", batch);
    own(environment, "slice", slice);
    own(environment, "sum", sum);
    own(environment, "int", int);
    own(environment, "float", float);
    own(environment, "trim", trim);
    own(environment, "replace", replace);
    own(environment, "join", join);
    own(environment, "indent", indent);
    own(environment, "center", center);
    own(environment, "tojson", tojson);
    own(environment, "items", |value, _| items(value));
    own(environment, "wordcount", |value, _| {
        Ok(Value::from(python::str(value)?.split(is_space).filter(|word| !word.is_empty()).count()))
    });
    environment.add_filter("format", |format: &Value, args: Rest<ValueOrKwargs>| {
        let args = args.into_values();
        let named = args.last().filter(|value| value.is_kwargs() && args.len() == 1).cloned();
        let values = named.unwrap_or_else(|| Value::from(Tuple::from(args)));
        printf(&python::str(format)?, &values).map(Value::from)
    });
}

fn own(
    environment: &mut Environment,
    name: &'static str,
    filter: fn(&Value, &mut Args) -> Result<Value, Error>,
) {
    environment.add_filter(name, move |value: &Value, rest: Rest<ValueOrKwargs>| {
        pay(value)?;
        let mut args = Args::new(&rest.into_values())?;
        let answer = filter(value, &mut args)?;
        args.finish().map_err(|error| named(error, name))?;
        Ok::<Value, Error>(answer)
    });
}

/// Adds the filter's name to errors about unknown arguments.
fn named(error: Error, filter: &str) -> Error {
    let about_arguments = matches!(error.kind(), ErrorKind::TooManyArguments | ErrorKind::MissingArgument);
    if !about_arguments {
        return error;
    }
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_string);
    Error::new(ErrorKind::InvalidOperation, format!("the filter {filter}: {what}"))
}

fn pay(value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => spend(text.len()),
        None => visit(value.len().unwrap_or(0)),
    }
}

fn escape(value: &Value) -> Result<Value, Error> {
    let text = python::str(value)?;
    spend(text.len().saturating_mul(5))?;
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    Ok(Value::from(text.replace('\'', "&#39;").replace('"', "&#34;")))
}

fn length(value: &Value) -> Result<Value, Error> {
    let length = match value.kind() {
        ValueKind::Undefined => Some(0),
        ValueKind::Iterable => Some(value.try_iter()?.count()),
        ValueKind::String => value.as_str().map(|text| text.chars().count()),
        _ => value.len(),
    };
    length.map_or_else(
        || fail(format!("object of type '{}' has no len()", python::type_name(value))),
        |n| Ok(Value::from(n)),
    )
}

fn batch(value: &Value, args: &mut Args) -> Result<Value, Error> {
    let count = args.count("linecount")?;
    let fill = args.next("fill_with")?.filter(|fill| !fill.is_none());
    let items = sorting::items_of(value)?;
    let mut rows: Vec<Vec<Value>> = items.chunks(count).map(<[Value]>::to_vec).collect();
    if let (Some(fill), Some(last)) = (fill, rows.last_mut()) {
        visit(count - last.len())?;
        last.resize(count, fill);
    }
    Ok(Value::from_iter(rows))
}

/// If the items do not divide evenly, the first slices have one more item.
fn slice(value: &Value, args: &mut Args) -> Result<Value, Error> {
    let count = args.count("slices")?;
    let fill = args.next("fill_with")?.filter(|fill| !fill.is_none());
    let items = sorting::items_of(value)?;
    visit(count)?;
    let (each, longer) = (items.len() / count, items.len() % count);
    let mut rest = items.into_iter();
    let slices = (0..count).map(|i| {
        let mut slice: Vec<Value> = rest.by_ref().take(each + (i < longer) as usize).collect();
        slice.extend(fill.clone().filter(|_| i >= longer));
        slice
    });
    Ok(Value::from_iter(slices))
}

fn default(value: &Value, args: &mut Args) -> Result<Value, Error> {
    let otherwise = args.next("default_value")?.unwrap_or_else(|| Value::from(""));
    let boolean = args.flag("boolean")?;
    let absent = value.is_undefined() || (boolean && !value.is_true());
    Ok(if absent { otherwise } else { value.clone() })
}

fn sum(value: &Value, args: &mut Args) -> Result<Value, Error> {
    let attribute = args.next("attribute")?.filter(|name| !name.is_none());
    let mut total = args.next("start")?.unwrap_or_else(|| Value::from(0));
    for item in value.try_iter()? {
        let item = match &attribute {
            Some(name) => item.get_item(name)?,
            None => item,
        };
        total = dialect::add(&total, &item)?;
    }
    Ok(total)
}

/// int(value), otherwise int(float(value)), otherwise the default.
fn int(value: &Value, args: &mut Args) -> Result<Value, Error> {
    let otherwise = args.next("default")?.unwrap_or_else(|| Value::from(0));
    let base = args.integer("base", 10)?;
    let integer = match value.kind() {
        ValueKind::Bool => Some(value.is_true() as i128),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok(),
        ValueKind::Number => f64::try_from(value.clone()).ok().and_then(whole),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            parse_int(text, base).or_else(|| parse_float(text).and_then(whole))
        }
        _ => None,
    };
    Ok(integer.map_or(otherwise, |i| i64::try_from(i).map_or_else(|_| Value::from(i), Value::from)))
}

/// The integer part of a float, if it is exact.
fn whole(float: f64) -> Option<i128> {
    let whole = float.trunc();
    (whole.abs() < 1e38).then_some(whole as i128)
}

fn parse_int(text: &str, base: i64) -> Option<i128> {
    let text = text.trim_matches(is_space);
    let (sign, digits) = match text.strip_prefix(['-', '+']) {
        Some(digits) => (&text[..1], digits),
        None => ("", text),
    };
    let prefixes = [("0x", 16), ("0o", 8), ("0b", 2)];
    let prefixed = prefixes.into_iter().find(|(prefix, radix)| {
        digits.to_ascii_lowercase().starts_with(prefix) && (base == 0 || base == *radix)
    });
    let (radix, digits) = match prefixed {
        Some((_, radix)) => (radix, &digits[2..]),
        None if base == 0 => (10, digits),
        None => (base, digits),
    };
    if !(2..=36).contains(&radix)
        || digits.starts_with(['-', '+', '_'])
        || digits.ends_with('_')
        || digits.contains("__")
    {
        return None;
    }
    i128::from_str_radix(&format!("{sign}{}", digits.replace('_', "")), radix as u32).ok()
}

fn parse_float(text: &str) -> Option<f64> {
    text.trim_matches(is_space).parse().ok()
}

fn float(value: &Value, args: &mut Args) -> Result<Value, Error> {
    let otherwise = args.next("default")?.unwrap_or_else(|| Value::from(0.0));
    let number = match value.kind() {
        ValueKind::Bool => Some(value.is_true() as i128 as f64),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok().map(|i| i as f64),
        ValueKind::Number => f64::try_from(value.clone()).ok(),
        ValueKind::String => parse_float(value.as_str().unwrap_or_default()),
        _ => None,
    };
    Ok(number.map_or(otherwise, Value::from))
}

fn trim(value: &Value, args: &mut Args) -> Result<Value, Error> {
    let text = python::str(value)?;
    let set = args.optional_text("chars")?;
    Ok(Value::from(
        text.trim_matches(|c: char| set.as_ref().map_or_else(|| is_space(c), |set| set.contains(c))),
    ))
}

fn replace(value: &Value, args: &mut Args) -> Result<Value, Error> {
    let (old, new) = (python::str(&args.required("old")?)?, python::str(&args.required("new")?)?);
    let count = args.integer("count", -1)?;
    methods::replace(&python::str(value)?, &old, &new, count).map(Value::from)
}

fn join(value: &Value, args: &mut Args) -> Result<Value, Error> {
    let separator = args.next("d")?.map_or_else(|| Ok(String::new()), |d| python::str(&d))?;
    let attribute = args.next("attribute")?.filter(|name| !name.is_none());
    let mut out = String::new();
    for (i, item) in value.try_iter()?.enumerate() {
        let item = match &attribute {
            Some(name) => item.get_item(name)?,
            None => item,
        };
        let item = python::str(&item)?;
        spend(out.len() / 64 + separator.len() + item.len())?;
        if i > 0 {
            out.push_str(&separator);
        }
        out.push_str(&item);
    }
    spend(out.len())?;
    Ok(Value::from(out))
}

fn indent(value: &Value, args: &mut Args) -> Result<Value, Error> {
    let width = args.next("width")?.unwrap_or_else(|| Value::from(4));
    let indent = match width.as_usize() {
        Some(columns) => {
            spend(columns)?;
            " ".repeat(columns)
        }
        None => python::str(&width)?,
    };
    let (first, blank) = (args.flag("first")?, args.flag("blank")?);
    let text = python::str(value)?;
    let lines: Vec<&str> = text.split('\n').collect();
    spend(text.len().saturating_add(lines.len().saturating_mul(indent.len())))?;
    let mut out = String::new();
    for (i, line) in lines.iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        let indented = if i == 0 { first } else { blank || !line.is_empty() };
        if indented {
            out.push_str(&indent);
        }
        out.push_str(line);
    }
    Ok(Value::from(out))
}

fn center(value: &Value, args: &mut Args) -> Result<Value, Error> {
    let width = usize::try_from(args.integer("width", 80)?).unwrap_or(0);
    spend(width)?;
    let text = python::str(value)?;
    let missing = width.saturating_sub(text.chars().count());
    let left = missing / 2 + (missing & width & 1);
    Ok(Value::from(format!("{}{text}{}", " ".repeat(left), " ".repeat(missing - left))))
}

fn items(value: &Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(Value::from(Vec::<Value>::new())),
        ValueKind::Map => {
            let pair = |key: Value| Ok(Value::from(Tuple::from([key.clone(), value.get_item(&key)?])));
            Ok(Value::from(value.try_iter()?.map(pair).collect::<Result<Vec<_>, Error>>()?))
        }
        _ => fail("Can only get item pairs from a mapping."),
    }
}

/// json.dumps with the arguments that transformers passes.
fn tojson(value: &Value, args: &mut Args) -> Result<Value, Error> {
    let ascii = args.flag("ensure_ascii")?;
    let indent = match args.next("indent")?.filter(|indent| !indent.is_none()) {
        Some(indent) => Some(match indent.as_str() {
            Some(text) => text.to_string(),
            None => {
                let columns = usize::try_from(indent.as_i64().unwrap_or(0)).unwrap_or(0);
                spend(columns)?;
                " ".repeat(columns)
            }
        }),
        None => None,
    };
    let mut separators = vec![if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string()];
    if let Some(given) = args.next("separators")?.filter(|given| !given.is_none()) {
        separators = given.try_iter()?.map(|text| python::str(&text)).collect::<Result<_, _>>()?;
    }
    let [item_separator, key_separator] =
        separators.try_into().or_else(|_| fail("tojson: separators must be two strings"))?;
    let json = Json { ascii, indent, sort_keys: args.flag("sort_keys")?, item_separator, key_separator };
    let mut out = String::new();
    json.dumps(value, &mut out, 0)?;
    spend(out.len())?;
    Ok(Value::from(out))
}

pub fn add_tests(environment: &mut Environment) {
    for name in ["safe", "startingwith", "endingwith", "int"] {
        environment.remove_test(name);
    }
    // An undefined value has the length 0 and an empty iterator; a string or a dict has items.
    environment.add_test("sequence", |value: &Value| has_items(value));
    environment.add_test("iterable", |value: &Value| has_items(value));
    environment
        .add_test("number", |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool));
    environment.add_test("callable", |value: &Value| {
        value.kind() == ValueKind::Plain && value.downcast_object_ref::<Myself>().is_none()
    });
    environment.add_test("lower", |value: &Value| cased(value, "islower"));
    environment.add_test("upper", |value: &Value| cased(value, "isupper"));
}

fn has_items(value: &Value) -> bool {
    matches!(
        value.kind(),
        ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable
    )
}

fn cased(value: &Value, method: &str) -> Result<bool, Error> {
    let text = Value::from(python::str(value)?);
    let answer = methods::string_question(text.as_str().unwrap_or_default(), method)?;
    answer.ok_or_else(|| Error::new(ErrorKind::UnknownTest, method.to_string()))
}
