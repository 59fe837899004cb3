//! Conditions: what `where`, `drop` and `keep` ask of a record.
//!
//! ```text
//! level == "debug" or path == '/health'
//! status >= 500 and not (user.name in ["bot", "probe"])
//! exists error.kind and container.labels."com.example.tier" matches "^(web|api)$"
//! ```
//!
//! Operators: `==` `!=` `<` `<=` `>` `>=`, `in [..]`, `matches "regular expression"`, `exists`, `and`, `or`, `not`,
//! parentheses; `and` binds stronger than `or`. A path alone is true if its value is `true`.
//!
//! Typed: values of different types are never equal and have no order (`"200" == 200` is false, `!=` is true). What is
//! missing is equal to nothing, not even to `null`. Two integers compare exactly, however long; an integer and a
//! fraction as 64-bit floats. Two texts that are both RFC 3339 times, one of them written in the condition, compare as
//! times; other texts byte by byte. `matches` sees texts, and numbers and booleans as they are written.
//!
//! Checked when it is read ([`super::condition_text`]), with the place of the mistake. Nothing is allocated to evaluate
//! one, but for texts with escapes in nested JSON.

use std::borrow::Cow;
use std::cmp::Ordering;

use regex::bytes::Regex;

use crate::batch::Batch;
use crate::codec::msgpack::Peek;
use crate::codec::{json, msgpack, time};
use crate::record::{Form, Timestamp, Value};

use super::path::{Found, Path};

/// A condition that was read.
#[derive(Clone, Debug)]
pub enum Condition {
    /// All hold.
    And(Vec<Condition>),
    /// One holds.
    Or(Vec<Condition>),
    /// It does not hold.
    Not(Box<Condition>),
    /// The path leads somewhere.
    Exists(Path),
    /// The value is `true`.
    IsTrue(Path),
    /// A comparison.
    Compare(Operand, Operator, Operand),
    /// The value is one of these.
    In(Operand, Vec<Literal>),
    /// The text holds a match.
    Matches(Operand, Regex),
}

/// One side of a comparison.
#[derive(Clone, Debug)]
pub enum Operand {
    /// A value of the record.
    Path(Path),
    /// A value in the condition.
    Literal(Literal),
}

/// A value in a condition.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// A text, and the time that it is if it is one.
    Text(String, Option<Timestamp>),
    /// A whole number.
    Int(i128),
    /// Any other number.
    Float(f64),
    /// `true` or `false`.
    Bool(bool),
    /// `null`.
    Null,
}

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `==`
    Equal,
    /// `!=`
    Differs,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

impl Operator {
    fn holds(self, order: Option<Ordering>) -> bool {
        match (self, order) {
            (Operator::Differs, order) => order != Some(Ordering::Equal),
            (_, None) => false,
            (Operator::Equal, Some(order)) => order.is_eq(),
            (Operator::Less, Some(order)) => order.is_lt(),
            (Operator::LessOrEqual, Some(order)) => order.is_le(),
            (Operator::Greater, Some(order)) => order.is_gt(),
            (Operator::GreaterOrEqual, Some(order)) => order.is_ge(),
        }
    }

    /// Whether it needs an order, not only equality.
    pub fn is_order(self) -> bool {
        !matches!(self, Operator::Equal | Operator::Differs)
    }
}

/// A value as conditions see it.
#[derive(Clone, Debug)]
pub enum Scalar<'a> {
    /// Not there.
    Missing,
    /// `null` or nil.
    Null,
    /// A boolean.
    Bool(bool),
    /// A whole number of up to 38 digits.
    Int(i128),
    /// Any other number.
    Float(f64),
    /// Unescaped text, and its time if the condition says that it is one.
    Text(Cow<'a, [u8]>, Option<Timestamp>),
    /// The record's time, where the source wrote no text.
    Time(Timestamp),
    /// An object, an array or something else without order.
    Nested,
}

impl Condition {
    /// Whether it holds for row `at`. The depth of recursion is limited where conditions are read.
    pub fn holds(&self, batch: &Batch, at: usize) -> bool {
        match self {
            Condition::And(all) => all.iter().all(|one| one.holds(batch, at)),
            Condition::Or(any) => any.iter().any(|one| one.holds(batch, at)),
            Condition::Not(one) => !one.holds(batch, at),
            Condition::Exists(path) => path.find(batch, at).is_some(),
            Condition::IsTrue(path) => matches!(of_path(path, batch, at), Scalar::Bool(true)),
            Condition::Compare(left, operator, right) => {
                operator.holds(compare(&left.scalar(batch, at), &right.scalar(batch, at)))
            }
            Condition::In(left, list) => {
                let left = left.scalar(batch, at);
                list.iter().any(|literal| compare(&left, &literal.scalar()) == Some(Ordering::Equal))
            }
            Condition::Matches(Operand::Path(path), regex) => matches(path.find(batch, at), regex),
            Condition::Matches(Operand::Literal(literal), regex) => match literal {
                Literal::Text(text, _) => regex.is_match(text.as_bytes()),
                _ => false,
            },
        }
    }
}

impl Operand {
    fn scalar<'a>(&'a self, batch: &'a Batch, at: usize) -> Scalar<'a> {
        match self {
            Operand::Path(path) => of_path(path, batch, at),
            Operand::Literal(literal) => literal.scalar(),
        }
    }
}

impl Literal {
    fn scalar(&self) -> Scalar<'_> {
        match self {
            Literal::Text(text, time) => Scalar::Text(Cow::Borrowed(text.as_bytes()), *time),
            Literal::Int(number) => Scalar::Int(*number),
            Literal::Float(number) => Scalar::Float(*number),
            Literal::Bool(flag) => Scalar::Bool(*flag),
            Literal::Null => Scalar::Null,
        }
    }
}

fn of_path<'a>(path: &Path, batch: &'a Batch, at: usize) -> Scalar<'a> {
    match path.find(batch, at) {
        None => Scalar::Missing,
        Some(Found::Value(value)) => scalar_of(value),
        Some(Found::Time(time)) => Scalar::Time(time),
        Some(Found::Container(_)) => Scalar::Nested,
    }
}

/// What an encoded value is.
pub fn scalar_of(value: Value<'_>) -> Scalar<'_> {
    match value.form {
        Form::Text | Form::JsonStr => json::text(value).map_or(Scalar::Nested, |text| Scalar::Text(text, None)),
        Form::Json => match value.bytes.first() {
            Some(b't') => Scalar::Bool(true),
            Some(b'f') => Scalar::Bool(false),
            Some(b'n') => Scalar::Null,
            Some(b'-' | b'0'..=b'9') => {
                std::str::from_utf8(value.bytes).ok().and_then(number).unwrap_or(Scalar::Nested)
            }
            _ => Scalar::Nested,
        },
        Form::Msg => match msgpack::peek(value.bytes) {
            Some(Peek::Nil) => Scalar::Null,
            Some(Peek::Bool(flag)) => Scalar::Bool(flag),
            Some(Peek::Int(number)) => Scalar::Int(i128::from(number)),
            Some(Peek::UInt(number)) => Scalar::Int(i128::from(number)),
            Some(Peek::Float(number)) => Scalar::Float(number),
            Some(Peek::Bytes(text)) => Scalar::Text(Cow::Borrowed(text), None),
            _ => Scalar::Nested,
        },
    }
}

/// Reads a number: exact if it is whole and has at most 38 digits.
fn number(text: &str) -> Option<Scalar<'static>> {
    if text.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit())
        && let Ok(number) = text.parse::<i128>()
    {
        return Some(Scalar::Int(number));
    }
    text.parse::<f64>().ok().map(Scalar::Float)
}

/// The order of two values; `None` where there is none. Equality needs the same type.
fn compare(left: &Scalar<'_>, right: &Scalar<'_>) -> Option<Ordering> {
    match (left, right) {
        (Scalar::Null, Scalar::Null) => Some(Ordering::Equal),
        (Scalar::Bool(left), Scalar::Bool(right)) => Some(left.cmp(right)),
        (Scalar::Int(left), Scalar::Int(right)) => Some(left.cmp(right)),
        (Scalar::Float(left), Scalar::Float(right)) => left.partial_cmp(right),
        (Scalar::Int(left), Scalar::Float(right)) => (*left as f64).partial_cmp(right),
        (Scalar::Float(left), Scalar::Int(right)) => left.partial_cmp(&(*right as f64)),
        (Scalar::Text(left, left_time), Scalar::Text(right, right_time)) => {
            let both = match (left_time, right_time) {
                (Some(left), Some(right)) => Some((*left, *right)),
                (None, Some(right)) => time::parse_rfc3339(left).map(|left| (left, *right)),
                (Some(left), None) => time::parse_rfc3339(right).map(|right| (*left, right)),
                (None, None) => None,
            };
            Some(both.map_or_else(|| left.cmp(right), |(left, right)| left.cmp(&right)))
        }
        (Scalar::Time(left), Scalar::Text(_, Some(right))) => Some(left.cmp(right)),
        (Scalar::Text(_, Some(left)), Scalar::Time(right)) => Some(left.cmp(right)),
        (Scalar::Time(left), Scalar::Time(right)) => Some(left.cmp(right)),
        _ => None,
    }
}

fn matches(found: Option<Found<'_>>, regex: &Regex) -> bool {
    match found {
        None | Some(Found::Container(_)) => false,
        Some(Found::Time(at)) => {
            let mut text = Vec::with_capacity(32);
            time::write_rfc3339(at, &mut text);
            regex.is_match(&text)
        }
        Some(Found::Value(value)) => match value.form {
            Form::Text | Form::JsonStr => json::text(value).is_some_and(|text| regex.is_match(&text)),
            Form::Json => regex.is_match(value.bytes),
            Form::Msg => match msgpack::peek(value.bytes) {
                Some(Peek::Bytes(text)) => regex.is_match(text),
                Some(Peek::UInt(number)) => regex.is_match(itoa::Buffer::new().format(number).as_bytes()),
                Some(Peek::Int(number)) => regex.is_match(itoa::Buffer::new().format(number).as_bytes()),
                Some(Peek::Bool(flag)) => regex.is_match(if flag { b"true" } else { b"false" }),
                Some(Peek::Float(number)) => regex.is_match(ryu::Buffer::new().format(number).as_bytes()),
                _ => false,
            },
        },
    }
}
