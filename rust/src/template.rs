//! Chat templates: compiled once, rendered with limits.
use crate::meter::{self, Outcome, spend, weigh};
use crate::python::{self, Dict, fail};
use crate::{
    Answer, FAILED, Failure, LIMIT, QtBytes, RAISED, dialect, filters, give, guard, methods, on_large_stack,
    take, text,
};
use minijinja::machinery::ast::{BinOpKind, CallArg, Expr, Stmt};
use minijinja::machinery::{self, CodeGenerator, Instructions};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Object, ObjectRepr, Rest, Serde, Value, ValueKind, ValueOrKwargs, from_args};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::c_char;
use std::sync::Arc;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct QtTemplateLimits {
    steps: u64,
    output_bytes: u64,
    work_bytes: u64,
    parse_depth: u32,
    recursion: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct QtTime {
    year: i32,
    month: i32,
    day: i32,
    hour: i32,
    minute: i32,
    second: i32,
    weekday: i32,
    yearday: i32,
}

thread_local! {
    static NOW: Cell<QtTime> = Cell::default();
}

/// The cost of a macro call in the engine's recursion limit.
const MACRO_COST: usize = 4;

pub struct QtTemplate {
    environment: Environment<'static>,
    program: Instructions<'static>,
    blocks: BTreeMap<&'static str, Instructions<'static>>,
    limits: QtTemplateLimits,
    // The program points into it, so it is declared last and dropped last.
    _source: Source,
}

/// A string at a fixed address, freed with its owner.
struct Source(*mut str);

unsafe impl Send for Source {}
unsafe impl Sync for Source {}

impl Source {
    fn new(text: String) -> Source {
        Source(Box::into_raw(text.into_boxed_str()))
    }

    /// # Safety
    /// Nothing that holds the result may outlive `self`.
    unsafe fn text(&self) -> &'static str {
        unsafe { &*self.0 }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        drop(unsafe { Box::from_raw(self.0) })
    }
}

impl QtTemplate {
    fn new(source: &str, limits: QtTemplateLimits) -> Answer<QtTemplate> {
        check_depth(source, limits.parse_depth as usize)?;
        meter::start(limits.work_bytes, limits.output_bytes);
        let owner = Source::new(dialect::prepare(source)?);
        let text = unsafe { owner.text() };
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
        let tree = machinery::parse(text, "template", syntax).map_err(|error| describe(&error))?;
        let mut folded = limits.output_bytes;
        check_constants(&tree, &mut folded)?;
        let mut generator = CodeGenerator::new("template", text);
        generator.compile_stmt(&tree);
        let (program, blocks) = generator.finish();
        Ok(QtTemplate {
            environment: environment(&limits),
            program: dialect::rewrite(program),
            blocks: blocks.into_iter().map(|(name, block)| (name, dialect::rewrite(block))).collect(),
            limits,
            _source: owner,
        })
    }

    fn render(&self, context: &str, now: QtTime) -> Answer<Vec<u8>> {
        let context: serde_json::Value = serde_json::from_str(context)?;
        meter::start(self.limits.work_bytes, self.limits.output_bytes);
        NOW.set(now);
        let mut text = String::new();
        let outcome = {
            let mut out = machinery::make_string_output(&mut text);
            machinery::eval(
                &self.environment,
                &self.program,
                Value::from(Serde(&context)),
                &self.blocks,
                &mut out,
                AutoEscape::None,
            )
            .map(|_| ())
        };
        let Err(error) = outcome else {
            if text.len() as u64 > self.limits.output_bytes {
                return Err(Failure(
                    LIMIT,
                    format!("the result is longer than {} bytes", self.limits.output_bytes),
                ));
            }
            return Ok(text.into_bytes());
        };
        Err(match meter::outcome() {
            Some(Outcome::Raised(message)) => Failure(RAISED, message),
            Some(Outcome::Limit) => Failure(LIMIT, describe(&error)),
            None if error.kind() == ErrorKind::OutOfFuel => {
                Failure(LIMIT, format!("more than {} steps", self.limits.steps))
            }
            None if error.detail().is_some_and(|detail| detail.contains("recursion limit")) => {
                Failure(LIMIT, describe(&error))
            }
            None => Failure(FAILED, describe(&error)),
        })
    }
}

fn describe(error: &Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let innermost = innermost.downcast_ref::<Error>().unwrap_or(error);
    let what = match innermost.detail() {
        Some(detail) if innermost.kind() == ErrorKind::InvalidOperation => detail.to_string(),
        Some(detail) => format!("{}: {detail}", innermost.kind()),
        None => innermost.kind().to_string(),
    };
    match error.line() {
        Some(line) => format!("line {line}: {what}"),
        None => what,
    }
}

fn environment(limits: &QtTemplateLimits) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_debug(false);
    environment.set_fuel(Some(limits.steps));
    environment.set_recursion_limit(limits.recursion as usize * MACRO_COST);
    environment.set_unknown_method_callback(methods::call);
    environment.set_formatter(|out, _, value| {
        let text = python::str(value)?;
        meter::print(text.len())?;
        out.write_str(&text).map_err(Error::from)
    });
    filters::add_filters(&mut environment);
    filters::add_tests(&mut environment);
    dialect::add_operators(&mut environment);
    environment.remove_global("debug");
    environment.add_function("raise_exception", |message: &Value| -> Result<Value, Error> {
        Err(meter::raise(python::str(message)?))
    });
    environment.add_function("dict", dict);
    environment.add_global("self", Value::from_object(Myself));
    environment.add_function("strftime_now", |format: &str| strftime(format, &NOW.get()));
    environment
}

/// dict(mapping or pairs, **more)
fn dict(args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args = args.into_values();
    let (of, more): (&[Value], Kwargs) = from_args(&args)?;
    let mut items: Vec<(Value, Value)> = Vec::new();
    if of.len() > 1 {
        return fail(format!("dict expected at most 1 argument, got {}", of.len()));
    }
    if let Some(of) = of.first() {
        weigh(of)?;
        if of.is_undefined() {
            return fail("dict: an undefined value is not a mapping");
        }
        let is_map = of.kind() == ValueKind::Map;
        for item in of.try_iter()? {
            if is_map {
                items.push((item.clone(), of.get_item(&item)?));
                continue;
            }
            let pair: Vec<Value> = item.try_iter()?.collect();
            let [key, value] = pair.try_into().or_else(|pair: Vec<Value>| {
                fail(format!("dict: expected a pair, found an item of {}", pair.len()))
            })?;
            items.push((key, value));
        }
    }
    for name in more.args() {
        items.push((Value::from(name), more.peek(name)?));
    }
    Ok(Dict::value(items))
}

/// The variable `self`: defined only for `self.block()`, which the compiler handles.
#[derive(Debug)]
pub struct Myself;

impl Object for Myself {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

/// The engine's parser is recursive with its own limit; this adds the caller's limit. Counting brackets
/// and open tags without parsing can only overestimate the depth.
fn check_depth(source: &str, most: usize) -> Answer<()> {
    let mut depth = 0usize;
    for byte in source.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > most {
            return Err(Failure(LIMIT, format!("brackets are nested deeper than {most} levels")));
        }
    }
    Ok(())
}

/// The compiler evaluates constant expressions without a meter. Together they may make as much text as a
/// result may have.
fn check_constants(statement: &Stmt, left: &mut u64) -> Answer<()> {
    let mut constants = Vec::new();
    statements(std::slice::from_ref(statement), &mut constants);
    for expression in constants {
        constant_size(expression, left)?;
    }
    Ok(())
}

/// The length of a constant string, 1 for another constant, None for a value computed while rendering.
fn constant_size(expression: &Expr, left: &mut u64) -> Answer<Option<u64>> {
    let size = match expression {
        Expr::Const(constant) => Some(constant.value.as_str().map_or(1, |text| text.len() as u64)),
        Expr::BinOp(operation) => {
            let a = constant_size(&operation.left, left)?;
            let b = constant_size(&operation.right, left)?;
            match (a, b, operation.op) {
                (Some(a), Some(b), BinOpKind::Mul) => {
                    let times = |side: &Expr| {
                        side.as_const().and_then(|value| value.as_i64()).unwrap_or(1).max(1) as u64
                    };
                    Some(
                        a.saturating_mul(times(&operation.right))
                            .max(b.saturating_mul(times(&operation.left))),
                    )
                }
                (Some(a), Some(b), BinOpKind::Concat) => {
                    check_spelling(&operation.left)?;
                    check_spelling(&operation.right)?;
                    Some(a.saturating_add(b))
                }
                (Some(a), Some(b), _) => Some(a.saturating_add(b)),
                _ => None,
            }
        }
        Expr::UnaryOp(operation) => constant_size(&operation.expr, left)?,
        Expr::List(_) | Expr::Tuple(_) | Expr::Map(_) => {
            let mut children = Vec::new();
            parts(expression, &mut children);
            let mut total = Some(1u64);
            for child in children {
                total = constant_size(child, left)?.zip(total).map(|(a, b)| a.saturating_add(b));
            }
            total
        }
        other => {
            let mut children = Vec::new();
            parts(other, &mut children);
            for child in children {
                constant_size(child, left)?;
            }
            None
        }
    };
    let spent = size.unwrap_or(0).saturating_sub(1);
    *left = left
        .checked_sub(spent)
        .ok_or_else(|| Failure(LIMIT, "constant expressions make too long a string".into()))?;
    Ok(size)
}

/// The compiler joins constants with a format of floats that differs from Python's.
fn check_spelling(side: &Expr) -> Answer<()> {
    let Expr::Const(constant) = side else { return Ok(()) };
    let text = python::str(&constant.value).map_err(|error| describe(&error))?;
    if text == constant.value.to_string() {
        return Ok(());
    }
    Err(Failure::from(format!("the constant {text} cannot be joined to a string by ~; write it as a string")))
}

/// The expressions of these statements and of all nested statements.
fn statements<'a, 's>(list: &'a [Stmt<'s>], out: &mut Vec<&'a Expr<'s>>) {
    for statement in list {
        match statement {
            Stmt::Template(s) => statements(&s.children, out),
            Stmt::EmitExpr(s) => out.push(&s.expr),
            Stmt::EmitRaw(_) | Stmt::Continue(_) | Stmt::Break(_) => {}
            Stmt::ForLoop(s) => {
                out.push(&s.iter);
                out.extend(&s.filter_expr);
                statements(&s.body, out);
                statements(&s.else_body, out);
            }
            Stmt::IfCond(s) => {
                out.push(&s.expr);
                statements(&s.true_body, out);
                statements(&s.false_body, out);
            }
            Stmt::WithBlock(s) => {
                out.extend(s.assignments.iter().map(|(_, value)| value));
                statements(&s.body, out);
            }
            Stmt::Set(s) => out.push(&s.expr),
            Stmt::SetBlock(s) => {
                out.extend(&s.filter);
                statements(&s.body, out);
            }
            Stmt::AutoEscape(s) => {
                out.push(&s.enabled);
                statements(&s.body, out);
            }
            Stmt::FilterBlock(s) => {
                out.push(&s.filter);
                statements(&s.body, out);
            }
            Stmt::Block(s) => statements(&s.body, out),
            Stmt::Import(s) => out.push(&s.expr),
            Stmt::FromImport(s) => out.push(&s.expr),
            Stmt::Extends(s) => out.push(&s.name),
            Stmt::Include(s) => out.push(&s.name),
            Stmt::Macro(s) => {
                out.extend(&s.defaults);
                statements(&s.body, out);
            }
            Stmt::CallBlock(s) => {
                arguments(&s.call.args, out);
                out.push(&s.call.expr);
                out.extend(&s.macro_decl.defaults);
                statements(&s.macro_decl.body, out);
            }
            Stmt::Do(s) => {
                arguments(&s.call.args, out);
                out.push(&s.call.expr);
            }
        }
    }
}

fn parts<'a, 's>(expression: &'a Expr<'s>, out: &mut Vec<&'a Expr<'s>>) {
    match expression {
        Expr::Var(_) | Expr::Const(_) => {}
        Expr::Slice(e) => {
            out.push(&e.expr);
            out.extend([&e.start, &e.stop, &e.step].into_iter().flatten());
        }
        Expr::UnaryOp(e) => out.push(&e.expr),
        Expr::BinOp(e) => out.extend([&e.left, &e.right]),
        Expr::Compare(e) => {
            out.push(&e.expr);
            out.extend(e.ops.iter().map(|op| &op.expr));
        }
        Expr::IfExpr(e) => {
            out.extend([&e.test_expr, &e.true_expr]);
            out.extend(&e.false_expr);
        }
        Expr::Filter(e) => {
            out.extend(&e.expr);
            arguments(&e.args, out);
        }
        Expr::Test(e) => {
            out.push(&e.expr);
            arguments(&e.args, out);
        }
        Expr::GetAttr(e) => out.push(&e.expr),
        Expr::GetItem(e) => out.extend([&e.expr, &e.subscript_expr]),
        Expr::Call(e) => {
            out.push(&e.expr);
            arguments(&e.args, out);
        }
        Expr::List(e) => out.extend(&e.items),
        Expr::Tuple(e) => out.extend(&e.items),
        Expr::Map(e) => {
            out.extend(&e.keys);
            out.extend(&e.values);
        }
    }
}

fn arguments<'a, 's>(list: &'a [CallArg<'s>], out: &mut Vec<&'a Expr<'s>>) {
    out.extend(list.iter().map(|argument| match argument {
        CallArg::Pos(e) | CallArg::Kwarg(_, e) | CallArg::PosSplat(e) | CallArg::KwargSplat(e) => e,
    }));
}

/// datetime.now().strftime(format), English names.
fn strftime(format: &str, now: &QtTime) -> Result<String, Error> {
    const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let day = DAYS[now.weekday.rem_euclid(7) as usize];
    let month = MONTHS[(now.month - 1).rem_euclid(12) as usize];
    let hour12 = (now.hour + 11) % 12 + 1;
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        // glibc's flag for a number without padding.
        let bare = directive == Some('-');
        if bare {
            directive = chars.next();
        }
        let two = |n: i32| if bare { n.to_string() } else { format!("{n:02}") };
        let text = match directive {
            Some('Y') => now.year.to_string(),
            Some('y') => two(now.year % 100),
            Some('m') => two(now.month),
            Some('d') => two(now.day),
            Some('e') => {
                if bare {
                    now.day.to_string()
                } else {
                    format!("{:2}", now.day)
                }
            }
            Some('H') => two(now.hour),
            Some('I') => two(hour12),
            Some('M') => two(now.minute),
            Some('S') => two(now.second),
            Some('j') => {
                if bare {
                    now.yearday.to_string()
                } else {
                    format!("{:03}", now.yearday)
                }
            }
            Some('p') => if now.hour < 12 { "AM" } else { "PM" }.into(),
            Some('A') => day.into(),
            Some('a') => day[..3].into(),
            Some('B') => month.into(),
            Some('b' | 'h') => month[..3].into(),
            Some('w') => now.weekday.to_string(),
            Some('u') => (now.weekday + 6).rem_euclid(7).wrapping_add(1).to_string(),
            Some('F') => strftime("%Y-%m-%d", now)?,
            Some('T' | 'X') => strftime("%H:%M:%S", now)?,
            Some('R') => strftime("%H:%M", now)?,
            Some('D' | 'x') => strftime("%m/%d/%y", now)?,
            Some('c') => strftime("%a %b %e %H:%M:%S %Y", now)?,
            // The time has no zone.
            Some('Z' | 'z') => String::new(),
            Some('%') => "%".into(),
            Some(other) => return fail(format!("strftime_now: the directive %{other} is not supported")),
            None => return fail("strftime_now: the format ends in a lone %"),
        };
        out.push_str(&text);
        spend(out.len() / 16)?;
    }
    Ok(out)
}

/// # Safety
/// See the header for this and all functions below.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qt_template_new(
    source: *const c_char,
    size: usize,
    limits: *const QtTemplateLimits,
    chat_template: *mut *mut QtTemplate,
    message: *mut QtBytes,
) -> i32 {
    unsafe {
        guard(message, || {
            let (source, limits) = (text(source, size)?, *limits);
            give(chat_template, on_large_stack(|| QtTemplate::new(source, limits))?)
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qt_template_render(
    chat_template: *const QtTemplate,
    context: *const c_char,
    size: usize,
    now: *const QtTime,
    out: *mut QtBytes,
) -> i32 {
    unsafe {
        guard(out, || {
            let (chat_template, context, now) = (&*chat_template, text(context, size)?, *now);
            on_large_stack(|| chat_template.render(context, now))
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn qt_template_free(chat_template: *mut QtTemplate) {
    unsafe { take(chat_template) }
}
