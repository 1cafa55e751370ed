//! `infra/docs/THREAT_MODEL.md` names tests that exist, so that no wall of it is one in words alone.

use std::{collections::BTreeSet, fs, path::Path};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Names of functions, and of files, of all Rust sources below `folder`.
fn names(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "target" {
            names(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.insert(name.to_owned());
            let text = fs::read_to_string(&path).unwrap();
            found.extend(text.split("fn ").skip(1).map(|rest| {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                rest[..end.unwrap_or(0)].to_owned()
            }));
        }
    }
}

#[test]
fn every_test_that_the_threat_model_names_exists() {
    let root = Path::new(ROOT);
    let mut known = BTreeSet::new();
    for folder in ["functions", "shared", "infra", "tests"] {
        names(&root.join(folder), &mut known);
    }
    let document = fs::read_to_string(root.join("infra/docs/THREAT_MODEL.md")).unwrap();
    let mut named = 0;
    for row in document.lines().filter(|line| line.starts_with("| ")) {
        let column = row.trim_end_matches('|').rsplit('|').next().unwrap();
        for name in column.split('`').skip(1).step_by(2) {
            assert!(known.contains(name), "{name} is no test");
            named += 1;
        }
    }
    assert!(named > 40, "{named} tests are named");
}
