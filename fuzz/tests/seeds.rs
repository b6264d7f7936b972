//! Every fuzz target over its seeds, each whole, cut at every length, and with each of its bytes changed.

use std::fs;
use std::path::Path;

/// What a byte becomes.
const BYTES: [u8; 13] = [0, b'\n', b' ', b'"', b'\'', b'.', b'0', b'9', b'\\', b'{', b'}', 0x7f, 0xff];
/// Opening one costs milliseconds, in a debug build tens of them.
const SLOW: &str = "jwe";

#[test]
fn what_every_target_checks_holds_for_its_seeds_and_small_changes_of_them() {
    for (name, check) in fuzz::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
        let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{} has no seeds", folder.display());
        for file in files {
            eprintln!("{}", file.display());
            let seed = fs::read(&file).unwrap();
            check(&seed);
            if name == SLOW {
                continue;
            }
            for length in 0..seed.len() {
                check(&seed[..length]);
            }
            let mut changed = seed.clone();
            for at in 0..seed.len() {
                for byte in BYTES {
                    changed[at] = byte;
                    check(&changed);
                }
                changed[at] = seed[at];
            }
        }
    }
}
