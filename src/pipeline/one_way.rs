//! Patterns that never turn back: where the next byte says where the match goes on, it is found in one walk over the text,
//! run by run, 16 bytes at a step.
//!
//! Most patterns that people write for logs are of this kind: fields up to a space, a bracket or a quote, with fixed text
//! between them (`^(?<ip>\S+) \S+ \[(?<when>[^\]]+)\] "(?<agent>[^"]*)"$`). The regex crate finds their groups byte by byte, a
//! table look-up each, and writes down its slots on the way; with the eleven groups of an access log it took 71 % of the CPU
//! time of a whole run. It stays the reference, and answers for every other pattern and for texts that leave a doubt.
//!
//! What a pattern has to be, so that both always give the same groups:
//!
//! - It begins with `^`. A `$` is its last piece, if there is one.
//! - It consists of ASCII texts, classes, repeated classes (`\S+`, `[a-z]{2,3}`), groups, optional parts and alternatives.
//! - What a repeated class takes can not begin what follows it. So a match, if there is one, leaves the run where it ends, and
//!   neither greed nor turning back makes a difference. One exception: `C*D*`, where D has all of C. There D's run ends in the
//!   same place wherever C's does, so the longest C, which is preferred, matches if any does.
//! - Which alternative is taken, and whether an optional part is, the next byte decides: their first bytes and those of what
//!   follows differ. So nothing else matches where one that was entered does not.
//! - Where a match may end before the text does, the last piece can not be left out after it was entered: no optional part stands
//!   there.
//!
//! Classes are of characters, the walk is over bytes. A class has all characters above ASCII (`[^"]`), none (`[a-z]`) or some
//! (`\S`, `\d`). All and none are decided by the byte in text that is UTF-8; where the third kind meets such a byte, where
//! characters would have to be counted, and where the text is not UTF-8, the walk is [`Unsure`](Found::Unsure).
//!
//! Gain: regex-file took 20,815 instructions a record with the regex crate alone and 6,187 with this (callgrind, whole program; now: `.ci/instructions.txt`); both
//! ways stand side by side in `benches/codec.rs` (`access_line`). Tests compare with the regex crate over random patterns and texts.

use regex::bytes::Regex;
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, Hir, HirKind, Look, Repetition};
use wide::u8x16;

use crate::codec::json::block::{BLOCK, equal, load};

/// A slot of a group that took no part.
pub const NOWHERE: u32 = u32::MAX;

/// What a walk found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The pattern matches, and the slots say where its named groups are.
    Yes,
    /// It does not match.
    No,
    /// The regex crate has to be asked.
    Unsure,
}

/// A pattern of this kind.
#[derive(Debug)]
pub struct OneWay {
    /// Jumps lead forwards only, so a walk ends.
    ops: Vec<Op>,
    slots: usize,
}

#[derive(Debug)]
enum Op {
    /// This byte comes next.
    Byte(u8),
    /// These do.
    Text(Box<[u8]>),
    Run(Box<Run>),
    /// The place is noted in this slot.
    Mark(usize),
    /// Goes on elsewhere if the next byte is none of these.
    Unless(Box<Next>, usize),
    Jump(usize),
    /// The text is over.
    End,
    Matched,
}

/// As many characters of a class as there are, from `min` to `max`.
#[derive(Debug)]
struct Run {
    stops: Stops,
    min: usize,
    max: usize,
    high: High,
}

/// Which bytes a decision is for.
#[derive(Debug)]
struct Next {
    ascii: u128,
    high: High,
    /// The end of the text is, too.
    end: bool,
}

/// How many of the characters above ASCII a set has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum High {
    None,
    Some,
    All,
}

/// A set of characters.
#[derive(Clone, Copy, Debug)]
struct Set {
    ascii: u128,
    high: High,
}

impl Set {
    const EMPTY: Set = Set { ascii: 0, high: High::None };

    fn byte(byte: u8) -> Set {
        Set { ascii: 1 << byte, high: High::None }
    }

    /// `None` for bytes above ASCII that are no characters.
    fn of(class: &Class) -> Option<Set> {
        let mut set = Set::EMPTY;
        let mut add = |from: u32, to: u32| (from..=to.min(0x7f)).for_each(|byte| set.ascii |= 1 << byte);
        match class {
            Class::Bytes(class) => {
                class.ranges().iter().for_each(|range| add(range.start().into(), range.end().into()));
                if !class.is_ascii() {
                    return None;
                }
            }
            Class::Unicode(class) => {
                class.ranges().iter().for_each(|range| add(range.start().into(), range.end().into()));
                set.high = match class.ranges().last() {
                    Some(last) if last.start() <= '\u{80}' && last.end() == char::MAX => High::All,
                    Some(last) if last.end() > '\u{7f}' => High::Some,
                    _ => High::None,
                };
            }
        }
        Some(set)
    }

    fn has(self, byte: u8) -> bool {
        byte < 0x80 && self.ascii >> byte & 1 == 1
    }

    fn and(self, other: Set) -> Set {
        Set { ascii: self.ascii | other.ascii, high: self.high.max(other.high) }
    }

    fn meets(self, other: Set) -> bool {
        self.ascii & other.ascii != 0 || self.high != High::None && other.high != High::None
    }

    fn is_within(self, other: Set) -> bool {
        self.ascii & !other.ascii == 0 && (self.high == High::None || other.high == High::All)
    }
}

/// How what is left of a pattern can begin.
#[derive(Clone, Copy, Debug)]
struct Follow {
    set: Set,
    /// It may be nothing, if the text is over.
    end: bool,
    /// It may be nothing, wherever it is.
    free: bool,
    /// It begins with as many of these as there are, from none on.
    absorbs: Option<Set>,
}

impl Follow {
    fn of(set: Set) -> Follow {
        Follow { set, end: false, free: false, absorbs: None }
    }

    fn or(self, other: Follow) -> Follow {
        Follow {
            set: self.set.and(other.set),
            end: self.end || other.end,
            free: self.free || other.free,
            absorbs: None,
        }
    }

    /// Whether the next byte tells the two apart.
    fn differs(self, other: Follow) -> bool {
        !(self.set.meets(other.set) || self.end && other.end)
    }
}

impl OneWay {
    /// The walk of a pattern, if it is of this kind. Its slots are those of the named groups in the order of
    /// `capture_names`, two each.
    pub fn of(regex: &Regex) -> Option<OneWay> {
        // As the regex crate reads it for bytes.
        let hir = ParserBuilder::new().utf8(false).build().parse(regex.as_str()).ok()?;
        let HirKind::Concat(pieces) = hir.kind() else { return None };
        let (first, pieces) = pieces.split_first()?;
        if *first.kind() != HirKind::Look(Look::Start) {
            return None;
        }
        let (pieces, last) = match pieces.split_last() {
            Some((last, pieces)) if *last.kind() == HirKind::Look(Look::End) => (pieces, true),
            _ => (pieces, false),
        };
        let mut walk = Compiler { ops: vec![Op::Matched], groups: Vec::new() };
        walk.groups = regex.capture_names().map(|name| name.is_some()).collect();
        if last {
            walk.ops.push(Op::End);
        }
        let end = Follow { end: last, free: !last, ..Follow::of(Set::EMPTY) };
        walk.all(pieces, end)?;
        Some(OneWay { slots: 2 * walk.groups.iter().filter(|named| **named).count(), ops: walk.forwards() })
    }

    /// How many slots a walk needs.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Walks over the first `len` bytes of `padded` (more may follow, and are read with the last block), less than 4 GiB.
    pub fn find(&self, padded: &[u8], len: usize, slots: &mut [u32]) -> Found {
        let Some(text) = padded.get(..len).filter(|text| simdutf8::basic::from_utf8(text).is_ok()) else {
            return Found::Unsure;
        };
        slots.fill(NOWHERE);
        let (mut at, mut next) = (0, 0);
        while let Some(op) = self.ops.get(next) {
            next += 1;
            match op {
                Op::Mark(slot) => {
                    if let Some(slot) = slots.get_mut(*slot) {
                        *slot = at as u32;
                    }
                }
                Op::Byte(byte) => {
                    if text.get(at) != Some(byte) {
                        return Found::No;
                    }
                    at += 1;
                }
                Op::Run(run) => {
                    let to = run.stops.find(padded, at, len).min(at.saturating_add(run.max));
                    if run.high == High::Some && to - at < run.max && text.get(to).is_some_and(|byte| !byte.is_ascii())
                    {
                        return Found::Unsure;
                    }
                    if to - at < run.min {
                        return Found::No;
                    }
                    at = to;
                }
                Op::Text(piece) => {
                    if !text[at..].iter().take(piece.len()).eq(piece.iter()) {
                        return Found::No;
                    }
                    at += piece.len();
                }
                Op::Unless(set, to) => match text.get(at) {
                    Some(byte) if byte.is_ascii() && set.ascii >> byte & 1 == 1 => {}
                    Some(byte) if !byte.is_ascii() && set.high == High::All => {}
                    Some(byte) if !byte.is_ascii() && set.high == High::Some => return Found::Unsure,
                    None if set.end => {}
                    _ => next = *to,
                },
                Op::Jump(to) => next = *to,
                Op::End => {
                    if at != len {
                        return Found::No;
                    }
                }
                Op::Matched => return Found::Yes,
            }
        }
        Found::No
    }
}

/// Puts a walk together from its end to its beginning, since each piece is judged by what follows it.
struct Compiler {
    /// The last one first; jumps count from the end.
    ops: Vec<Op>,
    /// Whether a group has a name.
    groups: Vec<bool>,
}

impl Compiler {
    fn all(&mut self, pieces: &[Hir], end: Follow) -> Option<Follow> {
        pieces.iter().rev().try_fold(end, |follow, piece| self.piece(piece, follow))
    }

    /// Puts a piece before what there is; how all of it can begin. `None` where it is not decided by the next byte.
    fn piece(&mut self, piece: &Hir, follow: Follow) -> Option<Follow> {
        match piece.kind() {
            HirKind::Empty => Some(follow),
            HirKind::Literal(literal) => {
                if !literal.0.is_ascii() {
                    return None;
                }
                let first = *literal.0.first()?;
                self.ops.push(if literal.0.len() == 1 { Op::Byte(first) } else { Op::Text(literal.0.clone()) });
                Some(Follow::of(Set::byte(first)))
            }
            HirKind::Class(class) => self.run(Set::of(class)?, 1, Some(1), true, follow),
            HirKind::Repetition(repeated) => {
                let set = match repeated.sub.kind() {
                    HirKind::Class(class) => Set::of(class)?,
                    HirKind::Literal(literal) if literal.0.len() == 1 && literal.0.is_ascii() => {
                        Set::byte(literal.0[0])
                    }
                    _ => return self.optional(repeated, follow),
                };
                self.run(set, repeated.min, repeated.max, repeated.greedy, follow)
            }
            HirKind::Capture(group) => {
                let index = group.index as usize;
                if !*self.groups.get(index)? {
                    return self.piece(&group.sub, follow);
                }
                let slot = 2 * self.groups[..index].iter().filter(|named| **named).count();
                self.ops.push(Op::Mark(slot + 1));
                let follow = self.piece(&group.sub, follow)?;
                self.ops.push(Op::Mark(slot));
                Some(follow)
            }
            HirKind::Concat(pieces) => self.all(pieces, follow),
            HirKind::Alternation(ways) => self.alternatives(ways, follow),
            HirKind::Look(_) => None,
        }
    }

    fn run(&mut self, set: Set, min: u32, max: Option<u32>, greedy: bool, follow: Follow) -> Option<Follow> {
        if max != Some(min) {
            let ends_itself = !set.meets(follow.set) && (greedy || !follow.free);
            let absorbed = greedy && max.is_none() && follow.absorbs.is_some_and(|by| set.is_within(by));
            if !ends_itself && !absorbed {
                return None;
            }
        }
        // Bytes are counted, so there must be no characters of more than one where that matters.
        let counted = min > 1 || max.is_some();
        let high = if counted { set.high.min(High::Some) } else { set.high };
        let max_bytes = max.map_or(usize::MAX, |max| max as usize);
        self.ops.push(Op::Run(Box::new(Run { stops: Stops::of(set, high)?, min: min as usize, max: max_bytes, high })));
        let begin = Follow::of(set);
        if min > 0 {
            return Some(begin);
        }
        let absorbs = (greedy && max.is_none()).then_some(set);
        Some(Follow { absorbs, ..begin.or(follow) })
    }

    fn optional(&mut self, repeated: &Repetition, follow: Follow) -> Option<Follow> {
        let once = repeated.min == 0 && repeated.max == Some(1) && repeated.greedy;
        if !once || follow.free || !is_something(&repeated.sub) {
            return None;
        }
        let behind = self.ops.len();
        let begin = self.piece(&repeated.sub, follow)?;
        if !begin.differs(follow) {
            return None;
        }
        self.unless(begin, behind);
        Some(begin.or(follow))
    }

    fn alternatives(&mut self, ways: &[Hir], follow: Follow) -> Option<Follow> {
        let behind = self.ops.len();
        let (last, others) = ways.split_last()?;
        let mut begins = vec![self.piece(last, follow)?];
        for way in others.iter().rev() {
            let next = self.ops.len();
            self.ops.push(Op::Jump(behind));
            let begin = self.piece(way, follow)?;
            self.unless(begin, next);
            begins.push(begin);
        }
        let differ = |at: usize| begins[at + 1..].iter().all(|other| begins[at].differs(*other));
        if begins.iter().any(|begin| begin.free) || !(0..begins.len()).all(differ) {
            return None;
        }
        begins.into_iter().reduce(Follow::or)
    }

    fn unless(&mut self, begin: Follow, to: usize) {
        let next = Next { ascii: begin.set.ascii, high: begin.set.high, end: begin.end };
        self.ops.push(Op::Unless(Box::new(next), to));
    }

    /// The walk in its order.
    fn forwards(mut self) -> Vec<Op> {
        let count = self.ops.len();
        self.ops.reverse();
        for op in &mut self.ops {
            if let Op::Unless(_, to) | Op::Jump(to) = op {
                *to = count - *to;
            }
        }
        self.ops
    }
}

/// Whether a piece takes at least one byte.
fn is_something(piece: &Hir) -> bool {
    piece.properties().minimum_len().is_some_and(|least| least > 0)
}

/// Finds the first byte that is none of a class: by the fewest ranges of bytes that tell it.
#[derive(Debug)]
enum Stops {
    /// This byte alone.
    At(u8),
    One(Ranges<1>),
    Two(Ranges<2>),
    Three(Ranges<3>),
    /// Whether a byte belongs to the class.
    Table(Box<[bool; 256]>),
}

/// First byte of a range and how many follow it, in each lane; and whether these are the bytes of the class or the others.
#[derive(Debug)]
struct Ranges<const N: usize> {
    ranges: [(u8x16, u8x16); N],
    turned: u32,
}

impl Stops {
    /// `None` for a class without a byte that is sure.
    fn of(set: Set, high: High) -> Option<Stops> {
        let mut table = [false; 256];
        for (byte, is_member) in (0..=u8::MAX).zip(&mut table) {
            *is_member = set.has(byte) || !byte.is_ascii() && high == High::All;
        }
        let ranges_of = |wanted: bool| {
            let mut ranges: Vec<(u8, u8)> = Vec::new();
            for (byte, _) in (0..=u8::MAX).zip(table).filter(|(_, is_member)| *is_member == wanted) {
                match ranges.last_mut() {
                    Some((_, last)) if u16::from(*last) + 1 == u16::from(byte) => *last = byte,
                    _ => ranges.push((byte, byte)),
                }
            }
            ranges
        };
        let (members, stops) = (ranges_of(true), ranges_of(false));
        if members.is_empty() {
            return None;
        }
        if let [(first, last)] = stops[..]
            && first == last
        {
            return Some(Stops::At(first));
        }
        // Where nothing stops a run there is no range of that to look for.
        let by_stops = !stops.is_empty() && stops.len() <= members.len();
        let (ranges, turned) = if by_stops { (stops, 0) } else { (members, 0xffff) };
        Some(match ranges.len() {
            1 => Stops::One(Ranges::of(&ranges, turned)),
            2 => Stops::Two(Ranges::of(&ranges, turned)),
            3 => Stops::Three(Ranges::of(&ranges, turned)),
            _ => Stops::Table(Box::new(table)),
        })
    }

    #[inline(always)]
    fn find(&self, padded: &[u8], from: usize, len: usize) -> usize {
        match self {
            Stops::At(byte) => scan(padded, from, len, |block| equal(block, *byte).to_bitmask()),
            Stops::One(ranges) => scan(padded, from, len, |block| ranges.stops(block)),
            Stops::Two(ranges) => scan(padded, from, len, |block| ranges.stops(block)),
            Stops::Three(ranges) => scan(padded, from, len, |block| ranges.stops(block)),
            Stops::Table(table) => {
                let text = padded.get(from..len).unwrap_or_default();
                from + text.iter().position(|byte| !table[usize::from(*byte)]).unwrap_or(text.len())
            }
        }
    }
}

impl<const N: usize> Ranges<N> {
    fn of(ranges: &[(u8, u8)], turned: u32) -> Ranges<N> {
        let (first, last) = ranges.first().copied().unwrap_or_default();
        let mut lanes = [(first, last); N];
        lanes.iter_mut().zip(ranges).for_each(|(lane, range)| *lane = *range);
        Ranges { ranges: lanes.map(|(first, last)| (u8x16::splat(first), u8x16::splat(last - first))), turned }
    }

    #[inline(always)]
    fn stops(&self, block: u8x16) -> u32 {
        let mut found = u8x16::splat(0);
        for (first, width) in &self.ranges {
            let over = block - *first;
            found |= over.min(*width).simd_eq(over);
        }
        found.to_bitmask() ^ self.turned
    }
}

#[inline(always)]
fn scan(padded: &[u8], from: usize, len: usize, stops: impl Fn(u8x16) -> u32) -> usize {
    let mut at = from;
    while at < len {
        let found = stops(load(padded, at));
        if found != 0 {
            return (at + found.trailing_zeros() as usize).min(len);
        }
        at += BLOCK;
    }
    len
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::TestCaseError;

    use super::*;
    use crate::codec::json::texts;

    fn walk(pattern: &str) -> Option<OneWay> {
        OneWay::of(&Regex::new(pattern).expect("a valid pattern"))
    }

    type Groups = Option<Vec<Option<(usize, usize)>>>;

    fn by_regex(regex: &Regex, text: &[u8]) -> Groups {
        let found = regex.captures(text)?;
        let names = regex.capture_names().flatten();
        Some(names.map(|name| found.name(name).map(|group| (group.start(), group.end()))).collect())
    }

    /// `None` where the walk leaves it to the regex crate.
    fn by_walk(walk: &OneWay, text: &[u8], behind: &[u8]) -> Option<Groups> {
        let mut slots = vec![7; walk.slots()];
        let padded = [text, behind].concat();
        match walk.find(&padded, text.len(), &mut slots) {
            Found::Unsure => None,
            Found::No => Some(None),
            Found::Yes => {
                let (pairs, _) = slots.as_chunks::<2>();
                let groups = pairs.iter().map(|[from, to]| (*to != NOWHERE).then_some((*from as usize, *to as usize)));
                Some(Some(groups.collect()))
            }
        }
    }

    /// Whether the walk was sure.
    fn agree(pattern: &str, text: &[u8]) -> Option<bool> {
        let regex = Regex::new(pattern).expect("a valid pattern");
        let walk = OneWay::of(&regex)?;
        let expected = by_regex(&regex, text);
        let mut sure = true;
        for behind in [&b""[..], b" \"]x9", &[b'a'; 40], &[0xc3; 20]] {
            let found = by_walk(&walk, text, behind);
            sure &= found.is_some();
            if let Some(found) = found {
                assert_eq!(found, expected, "{pattern} on {:?}", String::from_utf8_lossy(text));
            }
        }
        Some(sure)
    }

    const ACCESS: &str = r#"^(?<ip>\S+) \S+ (?<user>\S+) \[(?<when>[^\]]+)\] "(?<method>[A-Z]+) (?<path>\S+) (?<proto>[^"]+)" (?<status>\d{3}) (?<size>\d+|-)(?: "(?<referer>[^"]*)" "(?<agent>[^"]*)")?$"#;

    #[test]
    fn patterns_in_which_the_next_byte_decides_are_walked_and_others_are_not() {
        for (pattern, is_walked) in [
            (ACCESS, true),
            (r"^(?<level>[A-Z]+) (?<message>.*)$", true),
            (r"^(?<level>INFO|WARN|ERROR): *(?<message>.*)$", true),
            (r"^<(?<pri>[0-9]{1,3})>(?<time>[^ ]+) (?<host>[^ :\[]+)(?:\[(?<pid>[0-9]+)\])?: (?<rest>.*)", true),
            (r"(?x)^ (?<a>[^,]*) , (?<b>(?<c>\d+) - \d+) $", true),
            (r"^(?<a>[^ ]*?) x$", true),
            (r"^(?i:get) (?<a>\w+)", true),
            (r"^\s*(?<a>.*)$", false), // a line break is white space, but no `.`
            (r"^\s*(?s:(?<a>.*))$", true),
            (r"(?<a>\S+) x", false),
            (r"^(?<a>.*) x$", false),
            (r"^(?<a>\S*)\S$", false),
            (r"^ *(?<a>.+)$", false),
            (r"^(?<a>[^ ]*?)", false),
            (r"^(?<a>a+)(?:bc)?", false),
            (r"^(?<a>a(?:b|c|))$", true),
            (r"^(?<a>ab|ac|a)$", false),
            (r"^(?:(?<a>a)|(?<b>aa))$", false),
            (r"^(?:(?<a>a*)|b)", false),
            (r"^(?:(?<a>a*)|b)$", true),
            (r"^(?:(?<a>a*))?$", false),
            (r"^(?:(?<a>a) )*$", false),
            (r"^(?<a>a)\b", false),
            (r"(?m)^(?<a>a)$", false),
            (r"^(?<a>a)$b", false),
            (r"^(?<a>é)$", false),
            (r"^(?<a>(?-u:[\x80-\xff])+)$", false),
        ] {
            assert_eq!(walk(pattern).is_some(), is_walked, "{pattern}");
        }
    }

    #[test]
    fn groups_are_those_of_the_regex_crate() {
        let line = r#"10.0.0.1 - - [10/Oct/2026:13:55:36 +0000] "GET /a?b=c HTTP/1.1" 200 -"#;
        let long = format!("{line} \"{}\" \"agent\"", "r".repeat(100));
        for (pattern, text, sure) in [
            (ACCESS, line, true),
            (ACCESS, &long, true),
            (ACCESS, &long[..long.len() - 1], true),
            (ACCESS, &long.replace("rrr", "é"), true),
            (ACCESS, &long.replace("/a", "/é"), false),
            (ACCESS, "", true),
            (r"^(?<l>INFO|WARN|ERROR): *(?<m>.*)$", "WARN:   three spaces", true),
            (r"^(?<l>INFO|WARN|ERROR): *(?<m>.*)$", "ERROR:", true),
            (r"^(?<l>INFO|WARN|ERROR): *(?<m>.*)$", "ERR: no", true),
            (r"^(?<l>INFO|WARN|ERROR): *(?<m>.*)$", "INFO: two\nlines", true),
            (r"^<(?<p>[0-9]{1,3})>(?<h>[^:\[]*)(?:\[(?<id>\d+)\])?:(?<m>.*)", "<13>host[7]: text\nmore", true),
            (r"^<(?<p>[0-9]{1,3})>(?<h>[^:\[]*)(?:\[(?<id>\d+)\])?:(?<m>.*)", "<1334>host: text", true),
            (r"^<(?<p>[0-9]{1,3})>(?<h>[^:\[]*)(?:\[(?<id>\d+)\])?:(?<m>.*)", "<13>host[]: text", true),
            (r"^(?<a>[^ ]{2,3}) ", "äö ", false),
            (r"^(?<a>.)(?<b>x)", "\u{85}x", false),
            (r"^(?<a>\d+)$", "\u{661}", false),
            (r"^(?<a>[a-z]+)(?<b>[^a-z]*)", "abé", true),
            // Nothing stops this run.
            (r"^(?<a>[A-Z]+) (?s:(?<b>.*))$", "INFO a\0b\n", true),
        ] {
            assert_eq!(agree(pattern, text.as_bytes()), Some(sure), "{pattern} on {text}");
        }
        assert_eq!(agree(ACCESS, b"\xff"), Some(false));
    }

    /// A class, as often as it says; some are within others.
    fn repeated() -> impl Strategy<Value = String> {
        let class = prop_oneof![
            Just(r"\S"),
            Just(r"[^ ]"),
            Just(r"\d"),
            Just("[a-c]"),
            Just("."),
            Just(r#"[^"]"#),
            Just(r"[^\]]"),
            Just(" "),
            Just("[ab]"),
            Just(r"(?s:.)"),
            Just("b"),
            Just(r"\w"),
            Just("[éa]"),
            Just("[^a-c1x_]"),
            Just(r"(?-u:[^ ])"),
            Just(r"(?-u:\d)"),
            Just("(?i:k)"),
            Just("[^é]"),
        ];
        let times = prop_oneof![
            Just("+"),
            Just("+"),
            Just("+"),
            Just("*"),
            Just("*"),
            Just("*"),
            Just(""),
            Just(""),
            Just("?"),
            Just("{2}"),
            Just("{1,2}"),
            Just("{2,}"),
            Just("*?"),
            Just("+?"),
            Just("??"),
            Just("{0,2}"),
        ];
        (class, times).prop_map(|(class, times)| format!("{class}{times}"))
    }

    /// Pieces with groups that have no name yet: `(?<>`.
    fn piece() -> impl Strategy<Value = String> {
        let fixed =
            prop_oneof![Just(" "), Just("\""), Just(r"\]"), Just("a"), Just("ab"), Just(" x"), Just(""), Just("é")];
        let leaf = prop_oneof![2 => fixed.prop_map(str::to_owned), 3 => repeated()];
        leaf.prop_recursive(3, 12, 3, |inner| {
            let several = proptest::collection::vec(inner.clone(), 1..4);
            prop_oneof![
                inner.clone().prop_map(|inner| format!("(?<>{inner})")),
                several.prop_map(|several| several.concat()),
                inner.clone().prop_map(|inner| format!("(?:{inner})?")),
                inner.clone().prop_map(|inner| format!("(?<>{inner})?")),
                (inner.clone(), inner).prop_map(|(one, other)| format!("(?:{one}|{other})")),
            ]
        })
    }

    fn pattern() -> impl Strategy<Value = String> {
        let pieces = proptest::collection::vec(piece(), 1..6);
        (pieces, prop_oneof![Just("$"), Just("")]).prop_map(|(pieces, end)| {
            let (mut named, mut count) = (String::from("^"), 0);
            for (at, part) in pieces.concat().split("(?<>").enumerate() {
                if at > 0 {
                    named += &format!("(?<g{count}>");
                    count += 1;
                }
                named += part;
            }
            named + end
        })
    }

    fn text() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            6 => prop_oneof![Just(" "), Just("a"), Just("b"), Just("c"), Just("\""), Just("]"), Just("x"), Just("1"), Just("ab")]
                .prop_map(|part| part.as_bytes().to_vec()),
            1 => prop_oneof![
                Just(&b"\n"[..]), Just(&b"\0"[..]), Just("é".as_bytes()), Just("\u{a0}".as_bytes()), Just("\u{661}".as_bytes()),
                Just("\u{212a}".as_bytes()), Just(&b"\xff"[..]), Just(&b"k"[..]), Just(&[b'a'; 42][..]),
            ].prop_map(<[u8]>::to_vec),
        ];
        proptest::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(texts::many())]

        #[test]
        fn what_is_walked_gives_the_groups_of_the_regex_crate(
            pattern in pattern(), texts in proptest::collection::vec(text(), 8),
        ) {
            for text in &texts {
                agree(&pattern, text);
            }
        }

        /// Texts that match, made from the pattern, and those with one byte changed.
        #[test]
        fn what_matches_is_walked_alike(
            fields in proptest::collection::vec("[a-c1-3x/]{1,20}", 4), at in 0usize..90, byte in prop_oneof![
                Just(b' '), Just(b'"'), Just(b'a'), Just(b']'), Just(b'\n'), Just(0xc3),
            ],
        ) {
            let [a, b, c, d] = &fields[..] else { return Err(TestCaseError::fail("four")) };
            let mut line = format!("{a} - {b} [{c} {d}] \"GET /{a} HTTP/1\" 200 12 \"{b}\" \"{c} {d}\"").into_bytes();
            prop_assert_eq!(agree(ACCESS, &line), Some(true));
            if let Some(changed) = line.get_mut(at) {
                *changed = byte;
            }
            agree(ACCESS, &line);
        }
    }
}
