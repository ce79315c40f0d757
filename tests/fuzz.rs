//! Replays the seeds of the fuzzers: every seed through its target. How they are run:
//! `tests/fuzz/README.md`.

mod targets;

use std::path::Path;

#[test]
fn every_seed_holds() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds");
    for (name, target) in targets::TARGETS {
        let folder = std::fs::read_dir(seeds.join(name)).unwrap_or_else(|error| panic!("seeds of {name}: {error}"));
        let mut count = 0;
        for file in folder {
            let file = file.unwrap().path();
            eprintln!("{}", file.display()); // Shown only when it fails: the last one is it.
            target(&std::fs::read(&file).unwrap());
            count += 1;
        }
        assert!(count > 0, "{name} has no seeds");
    }
}
