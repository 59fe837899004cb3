//! Whole numbers as decimal digits, eight at a time in one 64-bit word and without a branch for each digit.
//!
//! Method: Paul Khuong, "How to print integers really fast" (2017): halves, quarters and single digits of a number below 1e8
//! are divided off side by side. The plain loop (a division a digit) took 70 of the 122 instructions of a time's text, `itoa`
//! some 35 a number; this takes 25 for either.

/// Numbers below it have eight digits at most.
pub(crate) const EIGHT: u64 = 100_000_000;

/// The digits of a number below [`EIGHT`], 0 to 9 each, the first one in the lowest byte.
#[inline(always)]
fn spread(number: u64) -> u64 {
    const HUNDREDS: u64 = 0x7f << 32 | 0x7f;
    const TENS: u64 = 0xf << 48 | 0xf << 32 | 0xf << 16 | 0xf;
    let four = (number / 10_000) | ((number % 10_000) << 32);
    let top = ((four * 10_486) >> 20) & HUNDREDS;
    let two = top | (four - 100 * top) << 16;
    let tens = ((two * 103) >> 10) & TENS;
    tens | (two - 10 * tens) << 8
}

const ZEROS: u64 = u64::from_le_bytes([b'0'; 8]);

/// All eight digits of a number below [`EIGHT`].
#[inline(always)]
pub(crate) fn eight(number: u64) -> [u8; 8] {
    (spread(number) | ZEROS).to_le_bytes()
}

/// The same without zeros at the front: the digits, and how many of them count.
#[inline(always)]
pub(crate) fn short(number: u64) -> ([u8; 8], usize) {
    let digits = spread(number);
    // Whole bytes; the last digit counts even if it is zero.
    let zeros = (digits | 1 << 56).trailing_zeros() & !7;
    (((digits | ZEROS) >> zeros).to_le_bytes(), 8 - zeros as usize / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_those_of_the_number() {
        // Every value of each half, and of the whole those around all powers of ten and some in between.
        let around = (0..=8u32).flat_map(|power| (0..5).map(move |near| (10u64.pow(power) + near).saturating_sub(2)));
        let numbers =
            (0..10_000).map(|four| four * 10_000 + (9_999 - four)).chain(around).chain((0..EIGHT).step_by(9_973));
        for number in numbers.chain(0..10_000).filter(|number| *number < EIGHT) {
            assert_eq!(eight(number), *format!("{number:08}").as_bytes());
            let (text, len) = short(number);
            assert_eq!(&text[..len], number.to_string().as_bytes());
        }
    }
}
