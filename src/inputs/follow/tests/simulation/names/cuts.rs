//! Lines are the same wherever the reads of them end.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::inputs::follow::decode;

/// Of a longer line the beginning is kept.
const MAX: usize = 1000;

/// Lengths of lines: short ones, ones about the limit, and some that no read has as a whole.
fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![8 => 0..100usize, 4 => MAX - 3..MAX + 4, 1 => source::BLOCK - 3..source::BLOCK * 2]
}

fn line(length: usize) -> String {
    // Characters of one and of two bytes: a cut may fall into one.
    "xyzé".chars().cycle().skip(length % 4).take(length).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn lines_are_the_same_wherever_reads_of_them_end(
        lengths in prop::collection::vec(lengths(), 1..30),
        ends in prop::collection::vec(any::<Index>(), 0..12),
    ) {
        let lines: Vec<String> = lengths.into_iter().map(line).collect();
        let text: Vec<u8> = lines.iter().flat_map(|line| [line.as_bytes(), b"\n"].concat()).collect();
        let mut ends: Vec<usize> = ends.iter().map(|end| end.index(text.len())).chain([text.len()]).collect();
        ends.sort_unstable();
        let rules = || Rules { line_max: MAX, ..text_rules() };
        let mut stage = Stage::files_of(rules, &["*.log"], |root| fs::write(root.join("x.log"), "").expect("written"));
        let mut log = OpenOptions::new().append(true).open(stage.path("x.log")).expect("there");
        let (mut written, mut came) = (0, Vec::new());
        for end in ends {
            log.write_all(&text[written..end]).expect("written");
            written = end;
            came.extend(stage.after(Duration::from_millis(100)));
        }
        came.extend(stage.seconds(1));
        let cut = lines.iter().map(|line| String::from_utf8_lossy(decode::cut(line.as_bytes(), MAX)));
        prop_assert!(came.iter().map(String::as_str).eq(cut.clone()), "{came:?} instead of {:?}", cut.collect::<Vec<_>>());
        let is_longer = |line: &&String| line.len() > MAX;
        prop_assert_eq!(stage.oddity(Oddity::LineCut), lines.iter().filter(is_longer).count() as u64);
    }
}
