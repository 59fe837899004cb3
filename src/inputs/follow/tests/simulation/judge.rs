//! What the oracle says of a run that has ended.

use super::writer::Writer;
use super::*;

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
    counts(run, &world.writer)?;
    let counted = rewritten(run);
    // One that came after the main part of the run was over has no note.
    let is_counted = |truncation: usize| run.rewritten_before.get(truncation).is_none_or(|before| counted > *before);
    let lost = world.writer.copies.removed.iter().find(|(line, of)| !came.contains(line) && !is_counted(*of));
    if let Some((line, _)) = lost {
        return Err(format!("line {line} went with a copy, and no truncation is counted since that was made"));
    }
    Ok(first.len())
}

/// What the last life counted as lost while it ran: each generation that was made and gone before it could be opened,
/// and no other. (Those that were made while it began may be told of or not, and each that was found then may hide one.)
fn counts(run: &Run, writer: &Writer) -> Result<(), String> {
    let Some(life) = &run.life else { return Ok(()) };
    let input = &life.metrics.inputs[0];
    let gone = input.oddities[Oddity::GenerationGone as usize].load(Ordering::Relaxed);
    let counted = input.followed.generations[Generation::Lost as usize].load(Ordering::Relaxed) - gone;
    let (most, least) = (writer.missed(life.made.0).1 as u64, writer.missed(life.made.1).0 as u64);
    let least = least.saturating_sub(life.found as u64);
    if (least..=most).contains(&counted) {
        return Ok(());
    }
    Err(format!("{counted} generations are counted as lost, of {least} to {most} that were"))
}

/// Truncations that the engine has counted in all of its lives.
pub(super) fn rewritten(run: &Run) -> u64 {
    let of = |life: &Life| life.metrics.inputs[0].oddities[Oddity::FileRewritten as usize].load(Ordering::Relaxed);
    run.rewritten + run.life.as_ref().map_or(0, of)
}
