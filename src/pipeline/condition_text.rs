//! Reads the text of a condition (the language is described in [`super::condition`]).
//!
//! Every mistake has its place: bytes of the condition's text. Texts stand in `"` (with `\"`, `\\`, `\n`, `\r`, `\t`; any
//! other `\` stays, so that regular expressions read well) or in `'` (nothing is special). `${VAR}` is replaced inside
//! texts only.
//!
//! Limits: [`TEXT_MAX`] bytes, [`DEPTH_MAX`] levels of parentheses and `not`, [`LIST_MAX`] items in a list,
//! [`REGEX_MAX`] bytes for a compiled regular expression.

use std::ops::Range;

use regex::bytes::{Regex, RegexBuilder};

use crate::codec::time;
use crate::settings::nearest;

use super::condition::{Condition, Literal, Operand, Operator};
use super::path::{Path, is_name_char};

/// Bytes of a condition, at most.
pub const TEXT_MAX: usize = 16 << 10;
/// Levels of parentheses and `not`, at most.
pub const DEPTH_MAX: usize = 64;
/// Items of a list, at most.
pub const LIST_MAX: usize = 1024;
/// Bytes of a compiled regular expression, at most.
pub const REGEX_MAX: usize = 1 << 20;

/// A mistake in a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionError {
    /// Bytes of the condition's text.
    pub span: Range<usize>,
    /// What, and the way out.
    pub message: String,
}

/// Reads a condition; `plain` replaces variables in its texts.
pub fn parse(text: &str, plain: &dyn Fn(&str) -> String) -> Result<Condition, ConditionError> {
    if text.len() > TEXT_MAX {
        return wrong(0..text.len(), "longer than 16 KiB");
    }
    let mut reader = Reader { text, at: 0, plain, depth: 0 };
    let condition = reader.any()?;
    let (span, token) = reader.peek()?;
    match token {
        Token::End => Ok(condition),
        Token::Symbol(")") => wrong(span, "`)` without `(`"),
        _ => wrong(span, "expected `and`, `or` or the end"),
    }
}

/// Compiles a regular expression within the limit; the error is short.
pub fn regex(pattern: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(pattern).size_limit(REGEX_MAX).build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "this regular expression needs more than 1 MiB".to_owned(),
        error => {
            let text = error.to_string();
            let reason = text.rsplit("error: ").next().unwrap_or(&text).trim().to_owned();
            format!("this is no regular expression: {reason}")
        }
    })
}

fn wrong<T>(span: Range<usize>, message: impl Into<String>) -> Result<T, ConditionError> {
    Err(ConditionError { span, message: message.into() })
}

#[derive(Clone, Debug, PartialEq)]
enum Token<'t> {
    /// A name or path; the text is as it stands.
    Name(&'t str),
    /// A text, unescaped.
    Text(String),
    Number(&'t str),
    Symbol(&'static str),
    End,
}

const SYMBOLS: [&str; 11] = ["==", "!=", "<=", ">=", "<", ">", "(", ")", "[", "]", ","];
/// What other languages write, and what is written here.
const FOREIGN: [(&str, &str); 6] =
    [("&&", "and"), ("||", "or"), ("=~", "matches"), ("!", "not"), ("=", "=="), ("&", "and")];
const WORDS: [&str; 6] = ["and", "or", "not", "in", "matches", "exists"];

struct Reader<'t, 'p> {
    text: &'t str,
    at: usize,
    plain: &'p dyn Fn(&str) -> String,
    depth: usize,
}

impl<'t> Reader<'t, '_> {
    /// The next token and where it stands, without taking it.
    fn peek(&mut self) -> Result<(Range<usize>, Token<'t>), ConditionError> {
        let before = self.at;
        let next = self.next();
        self.at = before;
        next
    }

    fn next(&mut self) -> Result<(Range<usize>, Token<'t>), ConditionError> {
        let rest = self.text[self.at..].trim_start();
        let from = self.text.len() - rest.len();
        self.at = from;
        let Some(first) = rest.chars().next() else {
            return Ok((from..from, Token::End));
        };
        if let Some(symbol) = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
            self.at += symbol.len();
            return Ok((from..self.at, Token::Symbol(symbol)));
        }
        let is_number = |rest: &str| rest.trim_start_matches('-').starts_with(|c: char| c.is_ascii_digit());
        match first {
            '"' | '\'' => self.quoted(first, from),
            '-' | '0'..='9' if is_number(rest) => {
                let len = rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+' | '_')));
                self.at += len.unwrap_or(rest.len());
                Ok((from..self.at, Token::Number(&self.text[from..self.at])))
            }
            '.' => self.name(from),
            c if is_name_char(c) && !rest.starts_with("${") => self.name(from),
            c => {
                if rest.starts_with("${") {
                    return wrong(from..from + 2, "a variable stands within quotes; write \"${NAME}\"");
                }
                if let Some((theirs, ours)) = FOREIGN.iter().find(|(theirs, _)| rest.starts_with(*theirs)) {
                    return wrong(from..from + theirs.len(), format!("`{theirs}` is written `{ours}` here"));
                }
                wrong(from..from + c.len_utf8(), format!("`{}` has no meaning here", c.escape_debug()))
            }
        }
    }

    /// A name: dotted parts, of which those after a dot may be quoted.
    fn name(&mut self, from: usize) -> Result<(Range<usize>, Token<'t>), ConditionError> {
        let mut after_dot = false;
        while let Some(c) = self.text[self.at..].chars().next() {
            if after_dot && matches!(c, '"' | '\'') {
                let Some(end) = self.text[self.at + 1..].find(c) else {
                    return wrong(self.at..self.text.len(), format!("{c} without its end"));
                };
                self.at += end + 2;
                after_dot = false;
            } else if c == '.' || is_name_char(c) {
                self.at += c.len_utf8();
                after_dot = c == '.';
            } else {
                break;
            }
        }
        Ok((from..self.at, Token::Name(&self.text[from..self.at])))
    }

    fn quoted(&mut self, quote: char, from: usize) -> Result<(Range<usize>, Token<'t>), ConditionError> {
        let (mut out, mut chars) = (String::new(), self.text[from + 1..].char_indices());
        while let Some((at, c)) = chars.next() {
            if c == quote {
                self.at = from + 1 + at + 1;
                return Ok((from..self.at, Token::Text((self.plain)(&out))));
            }
            if c != '\\' || quote == '\'' {
                out.push(c);
                continue;
            }
            match chars.next().map(|(_, c)| c) {
                Some(c @ ('"' | '\\')) => out.push(c),
                Some('n') => out.push('\n'),
                Some('r') => out.push('\r'),
                Some('t') => out.push('\t'),
                Some(c) => out.extend(['\\', c]),
                None => break,
            }
        }
        wrong(from..self.text.len(), format!("this text has no end; close it with {quote}"))
    }

    /// Takes a word or symbol if it comes next.
    fn take(&mut self, wanted: &str) -> Result<bool, ConditionError> {
        let before = self.at;
        let found = match self.next()?.1 {
            Token::Name(name) => name == wanted,
            Token::Symbol(symbol) => symbol == wanted,
            _ => false,
        };
        if !found {
            self.at = before;
        }
        Ok(found)
    }

    fn any(&mut self) -> Result<Condition, ConditionError> {
        let mut all = vec![self.all()?];
        while self.take("or")? {
            all.push(self.all()?);
        }
        Ok(if all.len() == 1 { all.swap_remove(0) } else { Condition::Or(all) })
    }

    fn all(&mut self) -> Result<Condition, ConditionError> {
        let mut all = vec![self.one()?];
        while self.take("and")? {
            all.push(self.one()?);
        }
        Ok(if all.len() == 1 { all.swap_remove(0) } else { Condition::And(all) })
    }

    fn one(&mut self) -> Result<Condition, ConditionError> {
        let (span, token) = self.peek()?;
        if self.depth >= DEPTH_MAX {
            return wrong(span, format!("more than {DEPTH_MAX} levels of parentheses and `not`"));
        }
        self.depth += 1;
        let condition = match token {
            Token::Name("not") => {
                self.next()?;
                Condition::Not(Box::new(self.one()?))
            }
            Token::Name("exists") => {
                self.next()?;
                let within = self.take("(")?;
                let (span, token) = self.next()?;
                let path = match token {
                    Token::Name(name) if !is_word(name) => path(name, span)?,
                    _ => return wrong(span, "expected a path after `exists`"),
                };
                if within {
                    self.expect(")")?;
                }
                Condition::Exists(path)
            }
            Token::Symbol("(") => {
                self.next()?;
                let inner = self.any()?;
                self.expect(")")?;
                inner
            }
            _ => self.comparison()?,
        };
        self.depth -= 1;
        Ok(condition)
    }

    fn expect(&mut self, symbol: &str) -> Result<(), ConditionError> {
        if self.take(symbol)? {
            return Ok(());
        }
        let (span, _) = self.peek()?;
        wrong(span, format!("expected `{symbol}`"))
    }

    fn comparison(&mut self) -> Result<Condition, ConditionError> {
        let (left_span, left) = self.operand("a path or a value")?;
        let (span, token) = self.peek()?;
        let operator = match &token {
            Token::Symbol("==") => Operator::Equal,
            Token::Symbol("!=") => Operator::Differs,
            Token::Symbol("<") => Operator::Less,
            Token::Symbol("<=") => Operator::LessOrEqual,
            Token::Symbol(">") => Operator::Greater,
            Token::Symbol(">=") => Operator::GreaterOrEqual,
            Token::Name("in") => return self.membership(left),
            Token::Name("not") => {
                self.next()?;
                let (span, _) = self.peek()?;
                if self.peek()?.1 == Token::Name("in") {
                    return Ok(Condition::Not(Box::new(self.membership(left)?)));
                }
                return wrong(span, "expected `in` after `not`");
            }
            Token::Name("matches") => {
                self.next()?;
                let (span, token) = self.next()?;
                let Token::Text(pattern) = token else {
                    return wrong(span, "expected a regular expression in quotes after `matches`");
                };
                let regex = regex(&pattern).map_err(|message| ConditionError { span, message })?;
                return Ok(Condition::Matches(left, regex));
            }
            other => {
                let ends = matches!(other, Token::End | Token::Symbol(")") | Token::Name("and" | "or"));
                return match (left, ends) {
                    (Operand::Path(path), true) => Ok(Condition::IsTrue(path)),
                    (Operand::Literal(_), true) => wrong(left_span, "a value alone is no condition; compare it"),
                    (_, false) => wrong(span, unknown_operator(other)),
                };
            }
        };
        self.next()?;
        let (right_span, right) = self.operand("a value or a path")?;
        for (span, side) in [(left_span, &left), (right_span, &right)] {
            if let (true, Operand::Literal(Literal::Bool(_) | Literal::Null)) = (operator.is_order(), side) {
                return wrong(span, "true, false and null have no order; use == or !=");
            }
        }
        Ok(Condition::Compare(left, operator, right))
    }

    /// `in [a, b]`, from the word on.
    fn membership(&mut self, left: Operand) -> Result<Condition, ConditionError> {
        self.next()?;
        let (open, _) = self.peek()?;
        if !self.take("[")? {
            return wrong(open, "expected a list after `in`, such as [\"a\", \"b\"]");
        }
        let mut list = Vec::new();
        while !self.take("]")? {
            match self.operand("a value or `]`")? {
                (_, Operand::Literal(literal)) => list.push(literal),
                (span, Operand::Path(path)) => {
                    return wrong(span, format!("a list holds values only; write \"{path}\" if it is a text"));
                }
            }
            if list.len() > LIST_MAX {
                return wrong(open, format!("more than {LIST_MAX} items"));
            }
            if !self.take(",")? {
                self.expect("]")?;
                break;
            }
        }
        Ok(Condition::In(left, list))
    }

    fn operand(&mut self, wanted: &str) -> Result<(Range<usize>, Operand), ConditionError> {
        let (span, token) = self.next()?;
        let operand = match token {
            Token::Text(text) => {
                let time = Some(&text).filter(|text| text.len() >= 20).and_then(|t| time::parse_rfc3339(t.as_bytes()));
                Operand::Literal(Literal::Text(text, time))
            }
            Token::Number(text) => Operand::Literal(number(text, &span)?),
            Token::Name("true") => Operand::Literal(Literal::Bool(true)),
            Token::Name("false") => Operand::Literal(Literal::Bool(false)),
            Token::Name("null") => Operand::Literal(Literal::Null),
            Token::Name(name) if !is_word(name) => Operand::Path(path(name, span.clone())?),
            Token::Name(word) => {
                return wrong(
                    span,
                    format!("expected {wanted}, got `{word}`; a field of that name is written .{word}"),
                );
            }
            Token::Symbol(symbol) => return wrong(span, format!("expected {wanted}, got `{symbol}`")),
            Token::End => return wrong(span, format!("expected {wanted}, got the end")),
        };
        Ok((span, operand))
    }
}

fn is_word(name: &str) -> bool {
    WORDS.contains(&name)
}

fn unknown_operator(token: &Token<'_>) -> String {
    let Token::Name(name) = token else {
        return "expected an operator: == != < <= > >= in matches".to_owned();
    };
    let hint = match (*name, nearest(name, &WORDS)) {
        ("contains" | "like" | "startswith" | "endswith", _) => "; use `matches` with a regular expression".to_owned(),
        (_, Some(near)) => format!("; did you mean `{near}`?"),
        _ => String::new(),
    };
    format!("`{name}` is no operator (== != < <= > >= in matches){hint}")
}

fn path(name: &str, span: Range<usize>) -> Result<Path, ConditionError> {
    // A dot before the first part lets a field be called `in`, or be quoted.
    let (skipped, text) = name.strip_prefix('.').map_or((0, name), |text| (1, text));
    Path::parse(text).map_err(|(at, message)| {
        let from = (span.start + skipped + at).min(span.end);
        ConditionError { span: from..span.end.max(from), message }
    })
}

fn number(text: &str, span: &Range<usize>) -> Result<Literal, ConditionError> {
    let plain = text.replace('_', "");
    if let Ok(number) = plain.parse::<i128>() {
        return Ok(Literal::Int(number));
    }
    match plain.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(Literal::Float(number)),
        _ => wrong(span.clone(), format!("`{text}` is no number; a text stands within quotes")),
    }
}
