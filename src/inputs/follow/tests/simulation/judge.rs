//! What the oracle says of a run that has ended.

use super::writer::Writer;
use super::*;
use crate::metrics::followed::Watching;

pub(super) fn judge(run: &Run) -> Result<usize, String> {
    if let Some(wrong) = &run.wrong {
        return Err(wrong.clone());
    }
    let world = run.world.borrow();
    let came: BTreeSet<u64> = run.arrived.iter().copied().collect();
    let missing: Vec<u64> = (0..world.writer.next)
        .filter(|line| !came.contains(line) && !world.writer.unreachable.contains(line))
        .collect();
    if !missing.is_empty() {
        return Err(format!("{} reachable lines are missing: {:?}", missing.len(), &missing[..missing.len().min(8)]));
    }
    let mut seen = BTreeSet::new();
    let first: Vec<u64> = run.arrived.iter().copied().filter(|line| seen.insert(*line)).collect();
    if let Some(pair) = first.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Err(format!("{} came after {}", pair[1], pair[0]));
    }
    counts(run, &world.writer, true)?;
    let counted = counted(run).rewritten;
    // One that came after the main part of the run was over has no note.
    let is_counted = |truncation: usize| run.rewritten_before.get(truncation).is_none_or(|before| counted > *before);
    let lost = world.writer.copies.removed.iter().find(|(line, of)| !came.contains(line) && !is_counted(*of));
    if let Some((line, _)) = lost {
        return Err(format!("line {line} went with a copy, and no truncation is counted since that was made"));
    }
    told(run)?;
    Ok(first.len())
}

/// Lines that a start could not have any more, and that somebody has to be told of.
pub(super) struct Debt {
    lines: usize,
    first: u64,
    /// Arrivals, and what was counted, before anybody could know.
    arrived: usize,
    before: Counted,
    /// They were in generations that the life before may have counted as lost; else the start finds that they are gone.
    missed: bool,
    paid: Paid,
}

/// How they were told of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Paid {
    Not,
    /// A file counts as gone: a container's has a record, too.
    Gone,
    Whole,
}

/// Looks at the end of a life at how that has paid for what its start could not have: by generations that are lost only for those
/// that were missed while the one before ran.
pub(super) fn pay(debts: &mut [Debt], now: Counted) {
    for debt in debts.iter_mut().filter(|debt| debt.paid == Paid::Not) {
        let before = debt.before;
        debt.paid = if debt.missed && now.lost > before.lost {
            Paid::Whole
        } else if now.gone > before.gone {
            Paid::Gone
        } else if now.possible > before.possible || now.rewritten > before.rewritten {
            Paid::Whole
        } else {
            Paid::Not
        };
    }
}

/// A record of a gap stands in the place of lines if what comes before it is older than they are.
fn told(run: &Run) -> Result<(), String> {
    for debt in run.debts.iter().filter(|debt| debt.paid != Paid::Whole) {
        let is_in_place = |gap: &&usize| {
            **gap >= debt.arrived
                && run.arrived[debt.arrived..**gap].iter().all(|line| debt.missed || *line < debt.first)
        };
        let has_record = run.gaps.iter().find(is_in_place).is_some();
        let wrong = match debt.paid {
            Paid::Not if !has_record => "nobody is told",
            Paid::Gone if !has_record && run.program == Program::Docker => {
                "their file counts as gone, but no record stands in their place"
            }
            _ => continue,
        };
        let when = if debt.missed { "unopened in the life before a start" } else { "before a start" };
        return Err(format!("{} lines from {} on went {when}: {wrong}", debt.lines, debt.first));
    }
    Ok(())
}

/// The lines that are gone at a start and were not at the one before: to be told of, if anything was stored. `missed` are of
/// generations that were not opened in the life before, which began after so many arrivals: it may have counted them, and need
/// not have if each of them may be hidden ([`counts`]).
pub(super) fn debts(run: &mut Run, missed: &BTreeSet<u64>, began: usize, hidden: bool) -> Vec<Debt> {
    let world = run.world.borrow();
    let is_cut = world.writer.rotation == Rotation::Truncate || world.writer.rotation.appends().is_some();
    let came: BTreeSet<u64> = run.arrived.iter().copied().collect();
    let gone = world.writer.unreachable.iter().copied();
    let new: Vec<u64> = gone.filter(|line| !came.contains(line) && run.missing.insert(*line)).collect();
    // Of what is cut off in place nobody can say how much of it had been read.
    if is_cut {
        return Vec::new();
    }
    let (missed, gone): (Vec<u64>, Vec<u64>) = new.into_iter().partition(|line| missed.contains(line));
    let debt = |lines: Vec<u64>, arrived, before, missed| {
        let first = *lines.first()?;
        Some(Debt { lines: lines.len(), first, arrived, before, missed, paid: Paid::Not })
    };
    let missed = debt(missed, began, run.counted_before, true).filter(|_| !hidden);
    let gone = debt(gone, run.arrived.len(), run.counted, false);
    let mut debts: Vec<Debt> = [missed, gone].into_iter().flatten().collect();
    pay(&mut debts, run.counted);
    debts
}

/// What a life counted as lost while it ran: no other generations than those that were made and gone before they could be opened,
/// and, if it went on to the end, each of these. (Those that were made while it began may be told of or not, and each that was
/// found then may hide one.)
pub(super) fn counts(run: &Run, writer: &Writer, to_the_end: bool) -> Result<(), String> {
    let Some(life) = &run.life else { return Ok(()) };
    let input = &life.metrics.inputs[0];
    let gone = input.oddities[Oddity::GenerationGone as usize].load(Ordering::Relaxed);
    let counted = input.followed.generations[Generation::Lost as usize].load(Ordering::Relaxed) - gone;
    let most = writer.missed(life.made.0).1 as u64;
    let least = if to_the_end { at_least(life, writer) } else { 0 };
    if (least..=most).contains(&counted) {
        return Ok(());
    }
    Err(format!("{counted} generations are counted as lost, of {least} to {most} that were"))
}

/// So many generations a life has to count as lost, when it has come to its end.
pub(super) fn at_least(life: &Life, writer: &Writer) -> u64 {
    (writer.missed(life.made.1).0 as u64).saturating_sub(life.found as u64)
}

/// What the engine has counted, in all of its lives.
#[derive(Clone, Copy, Default)]
pub(super) struct Counted {
    /// Truncations.
    pub(super) rewritten: u64,
    /// Files that were being read and are gone.
    gone: u64,
    /// Gaps that are possible.
    possible: u64,
    /// Generations.
    lost: u64,
}

pub(super) fn counted(run: &Run) -> Counted {
    let Counted { rewritten, gone, possible, lost } = run.counted;
    let Some(input) = run.life.as_ref().map(|life| &life.metrics.inputs[0]) else { return run.counted };
    let odd = |kind: Oddity| input.oddities[kind as usize].load(Ordering::Relaxed);
    let followed = &input.followed;
    let generations = followed.generations[Generation::Lost as usize].load(Ordering::Relaxed);
    let gaps = followed.watching[Watching::GapPossible as usize].load(Ordering::Relaxed);
    Counted {
        rewritten: rewritten + odd(Oddity::FileRewritten),
        gone: gone + odd(Oddity::GenerationGone),
        possible: possible + gaps,
        lost: lost + generations,
    }
}
