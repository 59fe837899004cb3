//! Replays `tests/corpus/<file>/*` through the function that the fuzz target of that name calls: codecs, and what the disk
//! log reads.

use std::fs;
use std::path::Path;

/// Calls `fuzz_one` with each file of a corpus folder. An empty folder is a mistake.
fn replay(file: &str, fuzz_one: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(file);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut replayed = 0;
    for file in files {
        let path = file.expect("a folder can be listed").path();
        // Shown when it fails.
        println!("{}", path.display());
        fuzz_one(&fs::read(&path).expect("a seed can be read"));
        replayed += 1;
    }
    assert!(replayed > 0, "no seed in {}", folder.display());
}

/// One test a file.
macro_rules! corpora {
    ($module:ident: $($file:ident)*) => {
        $(#[test]
        fn $file() {
            replay(stringify!($file), crate::$module::$file::fuzz_one);
        })*
    };
}

corpora! { codec: cri dead_letter docker_json forward gzip json lines msgpack ndjson stored_batch text time x509 }
corpora! { buffer: cursor frame }
