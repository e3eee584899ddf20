//! Makes the engine equal to Jinja2 as transformers configures it. The engine compiles a template to
//! instructions. Instructions whose meaning differs from Python's, or whose results may be large, are
//! replaced by calls to functions defined here. A template cannot contain the names of these functions.
use crate::format::printf;
use crate::macros::{self, Declaration};
use crate::meter::{spend, visit, weigh};
use crate::methods::{self, DICT_METHODS};
use crate::python::{self, fail, type_name};
use minijinja::machinery::{Instruction, Instructions};
use minijinja::value::{Tuple, Value, ValueKind};
use minijinja::{Environment, Error};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// The source for the engine. Jinja2 reads every line break as \n.
pub fn prepare(source: &str) -> Result<String, String> {
    replace_generation_tags(&source.replace("\r\n", "\n").replace('\r', "\n"))
}

/// `{% generation %}` marks assistant text for training. It only opens a scope, like `{% with %}`.
fn replace_generation_tags(source: &str) -> Result<String, String> {
    let mut branches = 0;
    let mut work = 0;
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = next_tag(rest) {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let (end, code) = tag_end(tag);
        if code > TAG_BYTES {
            return Err(format!("a tag with more than {TAG_BYTES} bytes of code"));
        }
        work += code * code;
        if work > TAG_BYTES * TAG_BYTES {
            return Err("too many long tags".into());
        }
        let (tag, after) = tag.split_at(end);
        let inner = tag.trim_start_matches("{%").trim_end_matches("%}").trim_matches(['-', '+']).trim();
        branches += inner.starts_with("elif") as usize;
        if branches > BRANCHES {
            return Err(format!("more than {BRANCHES} elif tags"));
        }
        match inner {
            "generation" => out.push_str(&tag.replacen("generation", "with", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endwith", 1)),
            _ => out.push_str(tag),
        }
        // Python interprets these escapes in a string, but the engine would treat them as plain text.
        if let Some(escape) =
            ["\\U", "\\N{"].into_iter().find(|escape| !tag.starts_with("{#") && tag.contains(escape))
        {
            return Err(format!("the escape {escape} in {tag} is not supported; write the character itself"));
        }
        rest = after;
        if tag.starts_with("{%") && inner == "raw" {
            let end = raw_end(rest);
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        }
    }
    Ok(out + rest)
}

fn next_tag(text: &str) -> Option<usize> {
    text.as_bytes().windows(2).position(|pair| pair[0] == b'{' && matches!(pair[1], b'%' | b'{' | b'#'))
}

/// Chains of operators and of elif become trees as deep as they are long. The engine traverses them
/// recursively and folds constants in quadratic time; these limits bound its stack and time.
const TAG_BYTES: usize = 16 << 10;
const BRANCHES: usize = 2000;

/// The end of the tag at the start of `text`, and its number of bytes outside comments and quoted text.
/// Quoted text does not end a tag.
fn tag_end(text: &str) -> (usize, usize) {
    let close = match &text[..2] {
        "{#" => return (text.find("#}").map_or(text.len(), |at| at + 2), 0),
        "{%" => "%}",
        _ => "}}",
    };
    let bytes = text.as_bytes();
    let mut quote = None;
    let mut code = 0;
    let mut at = 2;
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (Some(_), b'\\') => at += 1,
            (Some(mark), b) if b == mark => quote = None,
            (Some(_), _) => {}
            (None, b @ (b'"' | b'\'')) => quote = Some(b),
            (None, _) if bytes[at..].starts_with(close.as_bytes()) => return (at + 2, code),
            _ => code += 1,
        }
        at += 1;
    }
    (text.len(), code)
}

fn raw_end(text: &str) -> usize {
    let tags = text.match_indices("{%");
    let mut ends = tags
        .filter(|(at, _)| text[at + 2..].trim_start_matches(['-', '+']).trim_start().starts_with("endraw"));
    ends.next().map_or(text.len(), |(at, _)| at)
}

/// Instructions to insert before and after an instruction.
struct Around<'a> {
    before: Vec<Instruction<'a>>,
    after: Vec<Instruction<'a>>,
}

/// Raw text is loaded and printed like a value, because the formatter counts all output; a loop gets a
/// list with a known length; a macro stores its unnamed arguments and is wrapped (see macros.rs).
fn around<'a>(program: &Instructions<'a>, at: u32, macros: &Macros) -> Around<'a> {
    let mut around = Around { before: Vec::new(), after: Vec::new() };
    for declaration in macros.values().filter(|declaration| declaration.start == at) {
        // They are on the stack, the last one on top.
        around.before.extend(declaration.rest.iter().rev().map(|name| Instruction::StoreLocal(name)));
    }
    match program.get(at) {
        Some(Instruction::EmitRaw(text)) => around.before.push(Instruction::LoadConst(Value::from(*text))),
        Some(Instruction::PushLoop(_)) => around.before.push(Instruction::CallFunction("for ", Some(1))),
        _ => {}
    }
    if let Some(declaration) = macros.get(&at) {
        let rest = Value::from_iter(declaration.rest.iter().map(|name| Value::from(*name)));
        around.after.push(Instruction::LoadConst(declaration.parameters.clone()));
        around.after.push(Instruction::LoadConst(rest));
        around.after.push(Instruction::CallFunction("macro ", Some(3)));
    }
    around
}

/// Keyed by the place of their BuildMacro.
type Macros = BTreeMap<u32, Declaration>;

/// The program with our functions inserted and jumps adjusted.
pub fn rewrite<'a>(old: Instructions<'a>) -> Instructions<'a> {
    let code = || (0..).map_while(|at| old.get(at));
    let macros: Macros = (0..)
        .take_while(|at| old.get(*at).is_some())
        .filter_map(|at| Some((at, macros::declaration(&old, at)?)))
        .collect();
    let additions: Vec<Around> = code().enumerate().map(|(at, _)| around(&old, at as u32, &macros)).collect();
    let mut places = vec![0u32];
    for addition in &additions {
        let length = 1 + addition.before.len() + addition.after.len();
        places.push(places[places.len() - 1] + length as u32);
    }
    let to = |at: u32| places[at as usize];
    let mut new = Instructions::new(old.name(), old.source());
    for ((at, instruction), addition) in code().enumerate().zip(additions) {
        let mut add = |instruction| match (old.get_span(at as u32), old.get_line(at as u32)) {
            (Some(span), _) => new.add_with_span(instruction, span),
            (None, Some(line)) => new.add_with_line(instruction, line as u16),
            (None, None) => new.add(instruction),
        };
        for instruction in addition.before {
            add(instruction);
        }
        let replaced = match instruction {
            Instruction::LoadConst(_) if macros.contains_key(&(at as u32 + 1)) => {
                Instruction::LoadConst(macros[&(at as u32 + 1)].all())
            }
            Instruction::EmitRaw(_) => Instruction::Emit,
            Instruction::Add => Instruction::CallFunction("+", Some(2)),
            Instruction::Mul => Instruction::CallFunction("*", Some(2)),
            Instruction::Rem => Instruction::CallFunction("%", Some(2)),
            Instruction::StringConcat => Instruction::CallFunction("~", Some(2)),
            Instruction::Eq => Instruction::CallFunction("==", Some(2)),
            Instruction::Ne => Instruction::CallFunction("!=", Some(2)),
            Instruction::Lt => Instruction::CallFunction("<", Some(2)),
            Instruction::Lte => Instruction::CallFunction("<=", Some(2)),
            Instruction::Gt => Instruction::CallFunction(">", Some(2)),
            Instruction::Gte => Instruction::CallFunction(">=", Some(2)),
            Instruction::In => Instruction::CallFunction("in ", Some(2)),
            Instruction::Slice => Instruction::CallFunction("[:]", Some(4)),
            Instruction::GetAttr(name) => {
                match ATTRIBUTES.iter().find(|attribute| attribute[1..] == **name) {
                    Some(attribute) => Instruction::CallFunction(attribute, Some(1)),
                    None => Instruction::GetAttr(name),
                }
            }
            Instruction::Jump(target) => Instruction::Jump(to(*target)),
            Instruction::JumpIfFalse(target) => Instruction::JumpIfFalse(to(*target)),
            Instruction::JumpIfFalseOrPop(target) => Instruction::JumpIfFalseOrPop(to(*target)),
            Instruction::JumpIfTrueOrPop(target) => Instruction::JumpIfTrueOrPop(to(*target)),
            Instruction::Iterate(target) => Instruction::Iterate(to(*target)),
            Instruction::BuildMacro(name, target, flags) => {
                Instruction::BuildMacro(name, to(*target), *flags)
            }
            other => other.clone(),
        };
        add(replaced);
        for instruction in addition.after {
            add(instruction);
        }
    }
    new
}

/// The attributes of every dict.
const ATTRIBUTES: [&str; DICT_METHODS.len()] = [
    ".clear",
    ".copy",
    ".fromkeys",
    ".get",
    ".items",
    ".keys",
    ".pop",
    ".popitem",
    ".setdefault",
    ".update",
    ".values",
];

pub fn add_operators(environment: &mut Environment) {
    environment.add_function("+", |a: &Value, b: &Value| add(a, b));
    environment.add_function("*", |a: &Value, b: &Value| multiply(a, b));
    environment.add_function("%", |a: &Value, b: &Value| remainder(a, b));
    environment.add_function("~", |a: &Value, b: &Value| concatenate(python::str(a)?, &python::str(b)?));
    environment.add_function("==", |a: &Value, b: &Value| equal(a, b));
    environment.add_function("!=", |a: &Value, b: &Value| equal(a, b).map(|same| !same));
    environment.add_function("<", |a: &Value, b: &Value| order("<", a, b).map(Ordering::is_lt));
    environment.add_function("<=", |a: &Value, b: &Value| order("<=", a, b).map(Ordering::is_le));
    environment.add_function(">", |a: &Value, b: &Value| order(">", a, b).map(Ordering::is_gt));
    environment.add_function(">=", |a: &Value, b: &Value| order(">=", a, b).map(Ordering::is_ge));
    environment.add_function("in ", |item: &Value, container: &Value| contains(container, item));
    environment.add_function("[:]", |of: &Value, start: &Value, stop: &Value, step: &Value| {
        slice(of, start, stop, step)
    });
    environment.add_function("for ", iterable);
    environment.add_function("macro ", macros::wrap);
    for (attribute, method) in ATTRIBUTES.into_iter().zip(DICT_METHODS) {
        environment.add_function(attribute, move |object: &Value| attribute_of(object, method));
    }
}

fn attribute_of(object: &Value, method: &'static str) -> Result<Value, Error> {
    match object.kind() {
        ValueKind::Undefined => fail(format!("an undefined value has no attribute {method}")),
        // Namespaces are maps in the engine, but have no methods.
        ValueKind::Map if !is_namespace(object) => Ok(methods::bound(object, method)),
        _ => object.get_attr(method),
    }
}

fn iterable(value: &Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(Value::from(Vec::<Value>::new())),
        ValueKind::Seq => Ok(value.clone()),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            visit(text.len())?;
            Ok(Value::from(text.chars().map(Value::from).collect::<Vec<_>>()))
        }
        ValueKind::Map | ValueKind::Iterable => {
            visit(value.len().unwrap_or(0))?;
            Ok(Value::from(value.try_iter()?.collect::<Vec<_>>()))
        }
        _ => fail(format!("'{}' object is not iterable", type_name(value))),
    }
}

fn is_namespace(object: &Value) -> bool {
    object.as_object().is_some_and(|object| object.type_name().ends_with("Namespace"))
}

enum Numbers {
    Integers(i128, i128),
    Floats(f64, f64),
}

fn numbers(a: &Value, b: &Value) -> Option<Numbers> {
    let numeric = |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool);
    if !numeric(a) || !numeric(b) {
        return None;
    }
    let float = |value: &Value| value.kind() == ValueKind::Number && !value.is_integer();
    if float(a) || float(b) {
        let number = |value: &Value| {
            f64::try_from(value.clone()).or_else(|_| i128::try_from(value.clone()).map(|i| i as f64)).ok()
        };
        return Some(Numbers::Floats(number(a)?, number(b)?));
    }
    let number = |value: &Value| {
        if value.kind() == ValueKind::Bool {
            Some(value.is_true() as i128)
        } else {
            i128::try_from(value.clone()).ok()
        }
    };
    Some(Numbers::Integers(number(a)?, number(b)?))
}

fn integer(value: Option<i128>) -> Result<Value, Error> {
    match value {
        Some(value) => Ok(i64::try_from(value).map_or_else(|_| Value::from(value), Value::from)),
        None => fail("an integer is too large"),
    }
}

fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

fn unsupported<T>(operator: &str, a: &Value, b: &Value) -> Result<T, Error> {
    fail(format!("unsupported operand type(s) for {operator}: '{}' and '{}'", type_name(a), type_name(b)))
}

fn concatenate(mut a: String, b: &str) -> Result<Value, Error> {
    spend(a.len().saturating_add(b.len()))?;
    a.push_str(b);
    Ok(Value::from(a))
}

pub fn add(a: &Value, b: &Value) -> Result<Value, Error> {
    if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
        return concatenate(a.to_string(), b);
    }
    if is_list(a) && is_list(b) && a.is_tuple() == b.is_tuple() {
        visit(a.len().unwrap_or(0) + b.len().unwrap_or(0))?;
        let items: Vec<Value> = a.try_iter()?.chain(b.try_iter()?).collect();
        return Ok(if a.is_tuple() { Value::from(Tuple::from(items)) } else { Value::from(items) });
    }
    match numbers(a, b) {
        Some(Numbers::Integers(a, b)) => integer(a.checked_add(b)),
        Some(Numbers::Floats(a, b)) => Ok(Value::from(a + b)),
        None => unsupported("+", a, b),
    }
}

fn multiply(a: &Value, b: &Value) -> Result<Value, Error> {
    match numbers(a, b) {
        Some(Numbers::Integers(a, b)) => return integer(a.checked_mul(b)),
        Some(Numbers::Floats(a, b)) => return Ok(Value::from(a * b)),
        None => {}
    }
    let (of, times) = if a.kind() == ValueKind::Number { (b, a) } else { (a, b) };
    let Some(times) = times.as_i64().map(|n| n.max(0) as usize).filter(|_| times.is_integer()) else {
        return unsupported("*", a, b);
    };
    if let Some(text) = of.as_str() {
        spend(text.len().saturating_mul(times))?;
        return Ok(Value::from(text.repeat(times)));
    }
    if !is_list(of) {
        return unsupported("*", a, b);
    }
    let items: Vec<Value> = of.try_iter()?.collect();
    visit(items.len().saturating_mul(times))?;
    let repeated: Vec<Value> = (0..times).flat_map(|_| items.iter().cloned()).collect();
    Ok(if of.is_tuple() { Value::from(Tuple::from(repeated)) } else { Value::from(repeated) })
}

fn remainder(a: &Value, b: &Value) -> Result<Value, Error> {
    if let Some(format) = a.as_str() {
        return printf(format, b).map(Value::from);
    }
    match numbers(a, b) {
        Some(Numbers::Integers(_, 0)) => fail("integer modulo by zero"),
        Some(Numbers::Integers(a, b)) => {
            integer(a.checked_rem(b).map(|r| if r != 0 && (r < 0) != (b < 0) { r + b } else { r }))
        }
        Some(Numbers::Floats(_, 0.0)) => fail("float modulo by zero"),
        Some(Numbers::Floats(a, b)) => {
            let r = a % b;
            Ok(Value::from(if r != 0.0 && (r < 0.0) != (b < 0.0) {
                r + b
            } else if r == 0.0 {
                0.0f64.copysign(b)
            } else {
                r
            }))
        }
        None => unsupported("%", a, b),
    }
}

pub fn equal(a: &Value, b: &Value) -> Result<bool, Error> {
    weigh(a)?;
    Ok(match (a.kind(), b.kind()) {
        (ValueKind::Bool, ValueKind::Number) | (ValueKind::Number, ValueKind::Bool) => match numbers(a, b) {
            Some(Numbers::Integers(a, b)) => a == b,
            Some(Numbers::Floats(a, b)) => a == b,
            None => false,
        },
        (left, right) if left != right && !(is_list(a) && is_list(b)) => false,
        _ => a == b,
    })
}

pub fn order(operator: &str, a: &Value, b: &Value) -> Result<Ordering, Error> {
    let comparable = match (a.as_str(), b.as_str()) {
        (Some(_), Some(_)) => true,
        _ => numbers(a, b).is_some() || (is_list(a) && is_list(b) && a.is_tuple() == b.is_tuple()),
    };
    if !comparable {
        let (a, b) = (type_name(a), type_name(b));
        return fail(format!("'{operator}' not supported between instances of '{a}' and '{b}'"));
    }
    weigh(a)?;
    match numbers(a, b) {
        Some(Numbers::Integers(a, b)) => Ok(a.cmp(&b)),
        Some(Numbers::Floats(a, b)) => a.partial_cmp(&b).map_or_else(|| fail("nan is not ordered"), Ok),
        None => Ok(a.cmp(b)),
    }
}

fn contains(container: &Value, item: &Value) -> Result<bool, Error> {
    match container.kind() {
        ValueKind::Undefined => Ok(false),
        ValueKind::String => {
            let text = container.as_str().unwrap_or_default();
            let Some(what) = item.as_str() else {
                return fail(format!(
                    "'in <string>' requires string as left operand, not {}",
                    type_name(item)
                ));
            };
            spend(text.len())?;
            Ok(text.contains(what))
        }
        ValueKind::Map => Ok(container.try_iter()?.any(|key| key == *item)),
        ValueKind::Seq | ValueKind::Iterable => {
            for other in container.try_iter()? {
                if equal(&other, item)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        _ => fail(format!("argument of type '{}' is not iterable", type_name(container))),
    }
}

fn slice(of: &Value, start: &Value, stop: &Value, step: &Value) -> Result<Value, Error> {
    let bound = |value: &Value| match value.as_i64() {
        _ if value.is_none() || value.is_undefined() => Ok(None),
        Some(index) if value.is_integer() => Ok(Some(index)),
        _ => fail("slice indices must be integers or None"),
    };
    let (start, stop, step) = (bound(start)?, bound(stop)?, bound(step)?.unwrap_or(1));
    if step == 0 {
        return fail("slice step cannot be zero");
    }
    if let Some(text) = of.as_str() {
        spend(text.len())?;
        let chars: Vec<char> = text.chars().collect();
        return Ok(Value::from(
            picks(chars.len(), start, stop, step).map(|at| chars[at]).collect::<String>(),
        ));
    }
    if !is_list(of) {
        return fail(format!("'{}' object is not subscriptable by a slice", type_name(of)));
    }
    let items: Vec<Value> = of.try_iter()?.collect();
    visit(items.len())?;
    let picked: Vec<Value> = picks(items.len(), start, stop, step).map(|at| items[at].clone()).collect();
    Ok(if of.is_tuple() { Value::from(Tuple::from(picked)) } else { Value::from(picked) })
}

/// The indices of slice(start, stop, step) of a sequence, equal to Python's slice.indices.
fn picks(length: usize, start: Option<i64>, stop: Option<i64>, step: i64) -> impl Iterator<Item = usize> {
    let length = length as i64;
    let (lowest, highest) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let place =
        |index: i64| if index < 0 { (index.saturating_add(length)).max(lowest) } else { index.min(highest) };
    let first = start.map_or(if step > 0 { lowest } else { highest }, place);
    let last = stop.map_or(if step > 0 { highest } else { lowest }, place);
    std::iter::successors(Some(first), move |at| at.checked_add(step))
        .take_while(move |at| if step > 0 { *at < last } else { *at > last })
        .map(|at| at as usize)
}
