//! The package of cargo-fuzz, `infra/fuzz`, and the seeds.

use std::{collections::BTreeSet, fs, path::PathBuf};

use comms_adapters::registry::CONFIGS;

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The names of the files, or of the directories, in a directory.
fn names(directory: &str, directories: bool) -> BTreeSet<String> {
    let entries = fs::read_dir(root().join(directory)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let paths = paths.filter(|path| path.is_dir() == directories && !path.ends_with("README.md"));
    let stem = |path: PathBuf| path.file_stem().unwrap().to_string_lossy().into_owned();
    paths.map(stem).collect()
}

/// A target without seeds fails its own test; one without a program would never run under libFuzzer.
#[test]
fn every_fuzz_target_has_a_program_of_its_own() {
    let seeds = names("tests/fixtures/fuzz", true);
    assert_eq!(names("infra/fuzz/fuzz_targets", false), seeds);
    let manifest = fs::read_to_string(root().join("infra/fuzz/Cargo.toml")).unwrap();
    let programs: Vec<&str> = manifest.split("[[bin]]").skip(1).collect();
    assert_eq!(programs.len(), seeds.len());
    for (name, program) in seeds.iter().zip(programs) {
        let lines = [
            format!("name = \"{name}\""),
            format!("path = \"fuzz_targets/{name}.rs\""),
        ];
        for line in lines {
            assert!(program.contains(&line), "{line} is not in:{program}");
        }
        let file = root().join(format!("infra/fuzz/fuzz_targets/{name}.rs"));
        let source = fs::read_to_string(file).unwrap();
        assert!(source.contains(&format!("mutate(\"{name}\"")), "{source}");
        assert!(source.contains(&format!("| {name}(input)")), "{source}");
    }
}

#[test]
fn every_provider_has_a_fuzz_target_for_its_answers() {
    let seeds = names("tests/fixtures/fuzz", true);
    let adapters = "shared/adapters/src";
    let mut folders = names(adapters, true);
    folders.retain(|folder| {
        root()
            .join(adapters)
            .join(folder)
            .join("config.rs")
            .is_file()
    });
    assert_eq!(folders.len(), CONFIGS.len());
    for folder in folders {
        let suffix = match folder.as_str() {
            "smtp" => "replies",
            _ => "answers",
        };
        let name = format!("{folder}_{suffix}");
        assert!(seeds.contains(&name), "{name} is missing");
    }
}
