//! Floats as JSON: the shortest text that means the same float. Those of few decimals are written as thousandths, in 0.77 of
//! ryu's time (`tricks` in `benches/codec.rs`). Counter: `not_finite`.

use crate::metrics::{Oddity, Tally};

/// A float of three decimals at most, as most numbers that people log are: then it is a whole number of thousandths,
/// which is quicker to write than the shortest text is to find. Below 2^53 thousandths a number has 15 digits or 16, and
/// no other text of so few digits means the same float.
pub(crate) struct Thousandths {
    pub(crate) negative: bool,
    pub(crate) whole: u64,
    /// The point and three digits.
    pub(crate) part: [u8; 4],
}

impl Thousandths {
    /// `None` for any other number.
    #[inline]
    pub(crate) fn of(number: f64) -> Option<Thousandths> {
        let thousandths = (number * 1000.0 + 0.5f64.copysign(number)) as i64;
        // Zero may be negative. The rest of the comparison fails for what is no such number, and for NaN.
        if thousandths == 0 || thousandths.unsigned_abs() >= 1 << 49 || thousandths as f64 / 1000.0 != number {
            return None;
        }
        let size = thousandths.unsigned_abs();
        let part = (size % 1000) as u16;
        let [hundreds, tens, ones] = [part / 100, part / 10 % 10, part % 10].map(|digit| b'0' + digit as u8);
        Some(Thousandths { negative: thousandths < 0, whole: size / 1000, part: [b'.', hundreds, tens, ones] })
    }

    /// Zeros at the end of `part` that the shortest text has not: two at most, as `1.0` has one decimal.
    #[inline]
    pub(crate) fn spare(&self) -> usize {
        match self.part {
            [_, _, b'0', b'0'] => 2,
            [_, _, _, b'0'] => 1,
            _ => 0,
        }
    }
}

/// Writes such a number. Says whether it is one.
pub(super) fn write_thousandths(number: f64, out: &mut Vec<u8>) -> bool {
    let Some(short) = Thousandths::of(number) else { return false };
    if short.negative {
        out.push(b'-');
    }
    out.extend_from_slice(itoa::Buffer::new().format(short.whole).as_bytes());
    out.extend_from_slice(&short.part[..4 - short.spare()]);
    true
}

pub(super) fn write_float(number: impl ryu::Float, finite: bool, out: &mut Vec<u8>, tally: &mut Tally) {
    if finite {
        out.extend_from_slice(ryu::Buffer::new().format_finite(number).as_bytes());
    } else {
        tally.odd(Oddity::NotFinite);
        out.extend_from_slice(b"null");
    }
}
