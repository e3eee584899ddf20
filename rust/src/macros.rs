//! Macros with Jinja2's calling rules: a macro that uses `varargs` or `kwargs` takes more arguments than
//! it names; any other macro names the excess argument in an error.
use crate::python::{Dict, fail};
use minijinja::machinery::{Instruction, Instructions};
use minijinja::value::{Kwargs, Object, ObjectRepr, Tuple, Value, from_args};
use minijinja::{Error, State};
use std::sync::Arc;

/// Variables for unnamed arguments, in the order in which the engine's macro gets them after its
/// parameters.
const REST: [&str; 2] = ["varargs", "kwargs"];

/// The declaration of a macro in a program.
pub struct Declaration {
    /// The first instruction of its body.
    pub start: u32,
    pub parameters: Value,
    /// The variables of REST that it uses.
    pub rest: Vec<&'static str>,
}

impl Declaration {
    /// The parameters of the engine's macro.
    pub fn all(&self) -> Value {
        let named = self.parameters.try_iter().into_iter().flatten();
        Value::from_iter(named.chain(self.rest.iter().map(|name| Value::from(*name))))
    }
}

/// The macro that the instruction at `at` makes. Before it are the names that the body captures, then
/// the parameters.
pub fn declaration(program: &Instructions, at: u32) -> Option<Declaration> {
    let Some(Instruction::BuildMacro(_, start, _)) = program.get(at) else { return None };
    let Some(Instruction::LoadConst(parameters)) = program.get(at.checked_sub(1)?) else { return None };
    let outside = (0..at.checked_sub(2)?).rev().map_while(|at| match program.get(at) {
        Some(Instruction::Enclose(name)) => Some(*name),
        _ => None,
    });
    let outside: Vec<&str> = outside.collect();
    let rest = REST.into_iter().filter(|name| outside.contains(name)).collect();
    Some(Declaration { start: *start, parameters: parameters.clone(), rest })
}

/// A macro, as visible to templates.
#[derive(Debug)]
struct Macro {
    engine: Value,
    parameters: Vec<Value>,
    varargs: bool,
    kwargs: bool,
}

pub fn wrap(engine: &Value, parameters: &Value, rest: &Value) -> Result<Value, Error> {
    let rest: Vec<Value> = rest.try_iter()?.collect();
    let speaks_of = |name: &str| rest.iter().any(|other| other.as_str() == Some(name));
    Ok(Value::from_object(Macro {
        engine: engine.clone(),
        parameters: parameters.try_iter()?.collect(),
        varargs: speaks_of(REST[0]),
        kwargs: speaks_of(REST[1]),
    }))
}

impl Macro {
    fn takes_caller(&self) -> bool {
        self.engine.get_attr("caller").is_ok_and(|caller| caller.is_true())
    }

    fn refuse<T>(&self, what: impl std::fmt::Display) -> Result<T, Error> {
        let name = self.engine.get_attr("name")?;
        fail(format!("macro '{name}' takes {what}"))
    }
}

impl Object for Macro {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str()? {
            "arguments" => Some(Value::from(Tuple::from(self.parameters.clone()))),
            "catch_varargs" => Some(Value::from(self.varargs)),
            "catch_kwargs" => Some(Value::from(self.kwargs)),
            "name" | "caller" => self.engine.get_item(key).ok(),
            _ => None,
        }
    }

    fn call(self: &Arc<Self>, state: &mut State, args: &[Value]) -> Result<Value, Error> {
        let (given, named): (&[Value], Kwargs) = from_args(args)?;
        let count = self.parameters.len();
        let mut values: Vec<Value> = given.iter().take(count).cloned().collect();
        let mut extra: Vec<(String, Value)> = Vec::new();
        let mut passed: Vec<(String, Value)> = Vec::new();
        for parameter in &self.parameters[values.len()..] {
            let name = parameter.as_str().unwrap_or_default();
            values.push(if named.has(name) { named.get(name)? } else { Value::UNDEFINED });
        }
        let open = &self.parameters[given.len().min(count)..];
        for name in named.args() {
            let value: Value = named.peek(name)?;
            if name == "caller" && self.takes_caller() {
                passed.push((name.into(), value));
            } else if open.iter().all(|parameter| parameter.as_str() != Some(name)) {
                extra.push((name.into(), value));
            }
        }
        if let (false, Some((name, _))) = (self.kwargs, extra.first()) {
            return self.refuse(format!("no keyword argument '{name}'"));
        }
        if !self.varargs && given.len() > count {
            return self.refuse(format!("not more than {count} argument(s)"));
        }
        if self.varargs {
            let rest: Vec<Value> = given.iter().skip(count).cloned().collect();
            values.push(Value::from(Tuple::from(rest)));
        }
        if self.kwargs {
            values.push(Dict::value(extra.into_iter().map(|(name, value)| (Value::from(name), value))));
        }
        if !passed.is_empty() {
            values.push(passed.into_iter().collect::<Kwargs>().into());
        }
        self.engine.call(state, &values)
    }
}
