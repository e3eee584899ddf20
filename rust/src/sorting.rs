//! Filters that order or compare items: sort, dictsort, unique, min, max, groupby. As in Jinja2, strings
//! are compared without case unless `case_sensitive` is set, and values that Python cannot compare are
//! an error.
use crate::dialect::{equal, order};
use crate::meter::visit;
use crate::methods::Args;
use crate::python::{fail, type_name};
use minijinja::Error;
use minijinja::value::{Enumerator, Object, ObjectRepr, Tuple, Value, ValueKind};
use std::collections::HashSet;
use std::sync::Arc;

/// The sort key of an item: the item itself or its attributes.
struct Key {
    paths: Vec<Vec<Value>>,
    fold: bool,
    otherwise: Option<Value>,
    /// Keys are lists; equal leading items are skipped.
    several: bool,
}

impl Key {
    fn new(attribute: Option<Value>, case_sensitive: bool) -> Result<Key, Error> {
        let paths = match attribute.filter(|attribute| !attribute.is_none()) {
            Some(attribute) => vec![path(&attribute)?],
            None => Vec::new(),
        };
        Ok(Key { paths, fold: !case_sensitive, otherwise: None, several: false })
    }

    /// "a,b" means two attributes.
    fn of_several(attribute: Option<Value>, case_sensitive: bool) -> Result<Key, Error> {
        let mut key = Key { several: true, ..Key::new(None, case_sensitive)? };
        match attribute.filter(|attribute| !attribute.is_none()) {
            Some(attribute) => match attribute.as_str() {
                Some(text) => {
                    for part in text.split(',') {
                        key.paths.push(path(&Value::from(part))?);
                    }
                }
                None => key.paths.push(path(&attribute)?),
            },
            None => {}
        }
        Ok(key)
    }

    fn of(&self, item: &Value) -> Result<Vec<Value>, Error> {
        if self.paths.is_empty() {
            return Ok(vec![self.folded(item.clone())]);
        }
        self.paths.iter().map(|path| Ok(self.folded(self.found(item, path)?))).collect()
    }

    fn found(&self, item: &Value, path: &[Value]) -> Result<Value, Error> {
        let mut found = item.clone();
        for part in path {
            if found.is_undefined() {
                return fail(format!("an undefined value has no attribute {part}"));
            }
            found = found.get_item(part)?;
            if let (true, Some(otherwise)) = (found.is_undefined(), &self.otherwise) {
                found = otherwise.clone();
            }
        }
        Ok(found)
    }

    fn folded(&self, value: Value) -> Value {
        match value.as_str() {
            Some(text) if self.fold => Value::from(text.to_lowercase()),
            _ => value,
        }
    }
}

/// "a.0.b" means an item of an item.
fn path(attribute: &Value) -> Result<Vec<Value>, Error> {
    let Some(text) = attribute.as_str() else {
        if attribute.is_integer() {
            return Ok(vec![attribute.clone()]);
        }
        return fail(format!("an attribute is a str or an int, not {}", type_name(attribute)));
    };
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let part = |part: &str| match part.parse::<i64>() {
        Ok(index) if digits(part) => Value::from(index),
        _ => Value::from(part),
    };
    Ok(text.split('.').map(part).collect())
}

pub fn items_of(value: &Value) -> Result<Vec<Value>, Error> {
    match value.kind() {
        ValueKind::String => Ok(value.as_str().unwrap_or_default().chars().map(Value::from).collect()),
        ValueKind::Undefined => Ok(Vec::new()),
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => Ok(value.try_iter()?.collect()),
        _ => fail(format!("'{}' object is not iterable", type_name(value))),
    }
}

fn less(key: &Key, a: &[Value], b: &[Value]) -> Result<bool, Error> {
    for (a, b) in a.iter().zip(b) {
        if !key.several || !equal(a, b)? {
            return order("<", a, b).map(|order| order.is_lt());
        }
    }
    Ok(false)
}

type Keyed = (Vec<Value>, Value);

fn keyed(key: &Key, items: Vec<Value>) -> Result<Vec<Keyed>, Error> {
    visit(items.len())?;
    items.into_iter().map(|item| Ok((key.of(&item)?, item))).collect()
}

/// Equal items keep their order, even in reverse, as in Python.
fn sorted(key: &Key, mut items: Vec<Keyed>, reverse: bool) -> Result<Vec<Keyed>, Error> {
    if items.len() < 2 {
        return Ok(items);
    }
    let tail = sorted(key, items.split_off(items.len() / 2), reverse)?;
    let mut left = sorted(key, items, reverse)?.into_iter().peekable();
    let mut right = tail.into_iter().peekable();
    let mut merged = Vec::new();
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        let swap = if reverse { less(key, &a.0, &b.0)? } else { less(key, &b.0, &a.0)? };
        merged.extend(if swap { right.next() } else { left.next() });
    }
    merged.extend(left);
    merged.extend(right);
    Ok(merged)
}

fn values(items: Vec<Keyed>) -> Value {
    Value::from(items.into_iter().map(|(_, item)| item).collect::<Vec<_>>())
}

pub fn sort(value: &Value, args: &mut Args) -> Result<Value, Error> {
    let (reverse, case_sensitive) = (args.flag("reverse")?, args.flag("case_sensitive")?);
    let key = Key::of_several(args.next("attribute")?, case_sensitive)?;
    sorted(&key, keyed(&key, items_of(value)?)?, reverse).map(values)
}

pub fn dictsort(value: &Value, args: &mut Args) -> Result<Value, Error> {
    let case_sensitive = args.flag("case_sensitive")?;
    let by = args.optional_text("by")?.unwrap_or_else(|| "key".into());
    let reverse = args.flag("reverse")?;
    let place = match by.as_str() {
        "key" => 0,
        "value" => 1,
        _ => return fail("You can only sort by either \"key\" or \"value\""),
    };
    if value.kind() != ValueKind::Map {
        return fail(format!("'{}' object has no attribute 'items'", type_name(value)));
    }
    let pair = |key: Value| Ok(Value::from(Tuple::from([key.clone(), value.get_item(&key)?])));
    let pairs = value.try_iter()?.map(pair).collect::<Result<Vec<_>, Error>>()?;
    let key = Key::new(Some(Value::from(place)), case_sensitive)?;
    sorted(&key, keyed(&key, pairs)?, reverse).map(values)
}

/// A key with Python's equality and hash: 1, 1.0 and True are equal.
#[derive(PartialEq, Eq, Hash)]
enum Scalar {
    None,
    Undefined,
    Text(String),
    Whole(i128),
    Fraction(u64),
}

impl Scalar {
    fn of(value: &Value) -> Option<Scalar> {
        match value.kind() {
            ValueKind::None => Some(Scalar::None),
            ValueKind::Undefined => Some(Scalar::Undefined),
            ValueKind::String => Some(Scalar::Text(value.as_str()?.to_string())),
            ValueKind::Bool => Some(Scalar::Whole(value.is_true() as i128)),
            ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok().map(Scalar::Whole),
            ValueKind::Number => {
                let number = f64::try_from(value.clone()).ok()?;
                let whole = number.fract() == 0.0 && number.abs() < 1e38;
                Some(if whole { Scalar::Whole(number as i128) } else { Scalar::Fraction(number.to_bits()) })
            }
            _ => None,
        }
    }
}

pub fn unique(value: &Value, args: &mut Args) -> Result<Value, Error> {
    let case_sensitive = args.flag("case_sensitive")?;
    let key = Key::new(args.next("attribute")?, case_sensitive)?;
    let mut scalars = HashSet::new();
    let mut others: Vec<Value> = Vec::new();
    let mut found = Vec::new();
    for (mut key, item) in keyed(&key, items_of(value)?)? {
        let key = key.remove(0);
        if matches!(key.kind(), ValueKind::Map | ValueKind::Seq) && !key.is_tuple() {
            return fail(format!("unhashable type: '{}'", type_name(&key)));
        }
        let new = match Scalar::of(&key) {
            Some(scalar) => scalars.insert(scalar),
            None => {
                visit(others.len())?;
                let mut known = false;
                for other in &others {
                    known = known || equal(other, &key)?;
                }
                if !known {
                    others.push(key);
                }
                !known
            }
        };
        if new {
            found.push(item);
        }
    }
    Ok(Value::from(found))
}

fn extreme(value: &Value, args: &mut Args, greatest: bool) -> Result<Value, Error> {
    let case_sensitive = args.flag("case_sensitive")?;
    let key = Key::new(args.next("attribute")?, case_sensitive)?;
    let mut best: Option<Keyed> = None;
    for item in keyed(&key, items_of(value)?)? {
        let better = match &best {
            Some(best) if greatest => less(&key, &best.0, &item.0)?,
            Some(best) => less(&key, &item.0, &best.0)?,
            None => true,
        };
        if better {
            best = Some(item);
        }
    }
    Ok(best.map_or(Value::UNDEFINED, |(_, item)| item))
}

pub fn min(value: &Value, args: &mut Args) -> Result<Value, Error> {
    extreme(value, args, false)
}

pub fn max(value: &Value, args: &mut Args) -> Result<Value, Error> {
    extreme(value, args, true)
}

/// A pair with names for its two values.
#[derive(Debug)]
pub struct Group {
    grouper: Value,
    list: Value,
}

impl Object for Group {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match (key.as_usize(), key.as_str()) {
            (Some(0), _) | (_, Some("grouper")) => Some(self.grouper.clone()),
            (Some(1), _) | (_, Some("list")) => Some(self.list.clone()),
            _ => None,
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(2)
    }
}

pub fn groupby(value: &Value, args: &mut Args) -> Result<Value, Error> {
    let attribute = args.required("attribute")?;
    let otherwise = args.next("default")?.filter(|value| !value.is_none());
    let case_sensitive = args.flag("case_sensitive")?;
    let key = Key { otherwise, ..Key::new(Some(attribute.clone()), case_sensitive)? };
    // The name of a group has the case of its first item.
    let spelled = Key { otherwise: key.otherwise.clone(), ..Key::new(Some(attribute), true)? };
    let mut groups: Vec<(Keyed, Vec<Value>)> = Vec::new();
    for (by, item) in sorted(&key, keyed(&key, items_of(value)?)?, false)? {
        match groups.last_mut() {
            Some(((last, _), list)) if equal(&last[0], &by[0])? => list.push(item),
            _ => groups.push(((by, spelled.of(&item)?.remove(0)), vec![item])),
        }
    }
    let group = |((_, grouper), list)| Value::from_object(Group { grouper, list: Value::from(list) });
    Ok(Value::from(groups.into_iter().map(group).collect::<Vec<_>>()))
}
