//! Whether two tag patterns have a tag in common: how a sink that nothing reaches is found before anything starts.

/// Whether some tag is matched by both patterns ([`TagGlob`](crate::record::TagGlob) says what they mean). Work is the
/// product of their lengths.
pub fn overlap(a: &str, b: &str) -> bool {
    let a: Vec<&str> = a.split('.').collect();
    let b: Vec<&str> = b.split('.').collect();
    meet(
        &a,
        &b,
        |part| *part == "**",
        |a, b| {
            let a: Vec<char> = a.chars().collect();
            let b: Vec<char> = b.chars().collect();
            meet(&a, &b, |c| *c == '*', |a, b| a == b)
        },
    )
}

/// Whether some list is matched by both patterns, where the items that `is_star` names stand for any run of items.
/// `reached[j]` says whether the patterns `a[..i]` and `b[..j]` can have eaten the same list.
fn meet<T>(a: &[T], b: &[T], is_star: impl Fn(&T) -> bool, same: impl Fn(&T, &T) -> bool) -> bool {
    let mut reached = vec![false; b.len() + 1];
    reached[0] = true;
    skip_stars(&mut reached, b, &is_star);
    for one in a {
        let mut next = vec![false; b.len() + 1];
        for (at, other) in b.iter().enumerate() {
            // A star of `b` eats `one` and stays; otherwise both move on together.
            next[at] |= reached[at] && (is_star(other) || is_star(one));
            if is_star(one) {
                // The star eats nothing, or what `other` stands for.
                next[at + 1] |= next[at];
            } else {
                next[at + 1] |= reached[at] && !is_star(other) && same(one, other);
            }
        }
        if is_star(one) {
            next[b.len()] |= reached[b.len()];
        }
        skip_stars(&mut next, b, &is_star);
        reached = next;
    }
    reached[b.len()]
}

/// A star may stand for nothing.
fn skip_stars<T>(reached: &mut [bool], pattern: &[T], is_star: &impl Fn(&T) -> bool) {
    for (at, item) in pattern.iter().enumerate() {
        if reached[at] && is_star(item) {
            reached[at + 1] = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::TagGlob;

    #[test]
    fn patterns_overlap_when_one_tag_fits_both() {
        let cases = [
            ("**", "**", true),
            ("**", "a.b", true),
            ("docker.*", "docker.web", true),
            ("docker.*", "docker.web.x", false),
            ("docker.**", "docker.*", true),
            ("api.**", "docker.*", false),
            ("apii.**", "api.**", false),
            ("*.web", "docker.*", true),
            ("a.*.c", "a.b.*", true),
            ("a.*.c", "a.b.d", false),
            ("**.z", "a.**", true),
            ("**.z", "a.b", false),
            ("docker.web-*", "docker.*-1", true),
            ("docker.web-*", "docker.db-*", false),
            ("a*b", "*ab*", true),
            ("", "**", true),
            ("", "*", true),
            ("a", "", false),
        ];
        for (a, b, expected) in cases {
            assert_eq!(overlap(a, b), expected, "{a} and {b}");
            assert_eq!(overlap(b, a), expected, "{b} and {a}");
        }
    }

    #[test]
    fn patterns_overlap_exactly_when_a_small_tag_proves_it() {
        // All tags and patterns over two letters, to a length at which a witness exists if there is one.
        let words = |letters: &[&str], len: usize| {
            let mut all = vec![String::new()];
            let mut last = all.clone();
            for _ in 0..len {
                last = last.iter().flat_map(|word| letters.iter().map(move |l| format!("{word}{l}"))).collect();
                all.extend(last.iter().cloned());
            }
            all
        };
        let tags = words(&["a", "b", "."], 6);
        let patterns = words(&["a", "*", "."], 4);
        for a in &patterns {
            for b in &patterns {
                let (glob_a, glob_b) = (TagGlob::new(a), TagGlob::new(b));
                let witness = tags.iter().find(|tag| glob_a.matches(tag) && glob_b.matches(tag));
                assert_eq!(overlap(a, b), witness.is_some(), "{a:?} and {b:?}: {witness:?}");
            }
        }
    }
}
