//! Fuzz targets: functions that take any bytes and fail where a reader breaks its promise. Each is run in two ways:
//!
//! - `cargo test`: its seeds as they are, then [`SHORT_RUN`] inputs made from them by [`mutate`]. The same ones every
//!   time, so that a failure stays one.
//! - `cargo fuzz run --fuzz-dir infra/fuzz -s none NAME`: by libFuzzer without end, guided by which code an input reaches.
//!   cargo-fuzz sets `cfg(fuzzing)`, which makes the targets of each crate public: no other build has them.
//!
//! Seeds are documents, in `tests/fixtures/fuzz/<target>/`: what comes from a provider's documentation is named in the
//! README there. What a run finds goes there too.
//!
//! Random bytes do not get past a parser. [`mutate`] therefore changes JSON as JSON, wherever in a seed it stands, and
//! libFuzzer uses it beside its own mutations.

#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::print_stderr,
    reason = "a target that fails is to say with what, in a test and in a fuzzer"
)]

use std::{fs, path::PathBuf};

use serde_json::{Map, Value, json};

/// Inputs of one target in `cargo test`, beside its seeds.
pub const SHORT_RUN: usize = 600;
/// Of how many mutations of libFuzzer one starts from a seed.
pub const FRESH_START: usize = 256;
/// Bytes of an input: twice what the longest of our line readers takes.
pub const MAX_INPUT: usize = 32_768;
/// What seeds have in the place of secrets and addresses. No error may repeat it.
pub const PLANTED: &str = "planted";

/// Defines the fuzz targets of a crate: `name = crate::function, most + each * length;`. What the function holds of the heap
/// at once may be `most` bytes, and `each` more for every byte of its input. What is made once for a whole process is
/// to be left out of that (`allocation_counter::opt_out`).
///
/// Each becomes a public function, which `infra/fuzz/fuzz_targets/NAME.rs` calls, and a test of the same name. The crate needs
/// `allocation-counter` and this crate as dev-dependencies, and as dependencies for `cfg(fuzzing)`.
#[macro_export]
macro_rules! fuzz_targets {
    ($($(#[$about:meta])+ $name:ident = $target:path, $most:literal + $each:literal * length;)+) => {
        $(
            $(#[$about])+
            ///
            /// # Panics
            ///
            /// Where the reader breaks its promise, or holds more memory than it may.
            pub fn $name(input: &[u8]) {
                let used = ::allocation_counter::measure(|| $target(input)).bytes_max;
                let allowed = $most + $each * input.len() as u64;
                assert!(used <= allowed, "{used} bytes of memory for {} bytes of input", input.len());
            }
        )+

        #[cfg(test)]
        mod short_runs {
            $(
                #[test]
                fn $name() {
                    $crate::fuzz::short_run(stringify!($name), super::$name);
                }
            )+
        }
    };
}

/// The seeds of a target, in the order of their names.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    let directory = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/fixtures/fuzz"
    ));
    let directory = directory.join(target);
    let files = fs::read_dir(&directory).expect("a target has a directory of seeds");
    let mut files: Vec<_> = files
        .map(|file| file.expect("a directory can be read").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{}: no seed", directory.display());
    let read = |file| fs::read(file).expect("a seed can be read");
    files.into_iter().map(read).collect()
}

/// Runs a target with its seeds, and with what is made of them.
pub fn short_run(name: &str, target: impl Fn(&[u8])) {
    let seeds = seeds(name);
    let mut random = Random::new(name.bytes().fold(0, |all, byte| {
        u64::from(byte).wrapping_add(all.wrapping_mul(31))
    }));
    for seed in &seeds {
        run_one(seed, &target);
    }
    let mut pool = seeds.clone();
    for _ in 0..SHORT_RUN {
        let mut input = random.one_of(&pool).clone();
        for _ in 0..=random.below(3) {
            mutate(&mut input, &mut random);
        }
        run_one(&input, &target);
        // Some are the beginning of others.
        if random.below(8) == 0 && pool.len() < 4 * seeds.len() + 16 {
            pool.push(input);
        }
    }
}

fn run_one(input: &[u8], target: &impl Fn(&[u8])) {
    /// Shows an input when the target panics on it.
    struct Shown<'a>(&'a [u8]);
    impl Drop for Shown<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("the input was b\"{}\"", self.0.escape_ascii());
            }
        }
    }
    let _shown = Shown(input);
    target(input);
}

/// Half of the time changes `data[..size]` as [`mutate`] does, and gives the new size.
///
/// Once in [`FRESH_START`] times, and in the place of an input that is as good as empty, it starts from a seed: libFuzzer
/// needs to be given none.
pub fn mutate_in_place(
    seeds: &[Vec<u8>],
    data: &mut [u8],
    size: usize,
    max_size: usize,
    seed: u32,
) -> Option<usize> {
    let mut random = Random::new(seed.into());
    let mut input = if size <= 1 || random.below(FRESH_START) == 0 {
        random.one_of(seeds).clone()
    } else if random.below(2) == 0 {
        let mut input = data[..size].to_vec();
        mutate(&mut input, &mut random);
        input
    } else {
        return None;
    };
    input.truncate(max_size.min(data.len()));
    data[..input.len()].copy_from_slice(&input);
    Some(input.len())
}

/// Numbers that look random and are the same every time (`SplitMix64`, Steele, Lea and Flood 2014).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Begins at `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number less than `end`, or 0 where that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % end).unwrap_or(0)
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// Changes an input: its JSON as JSON, where it is a JSON text or ends in one after an empty line; else its bytes.
pub fn mutate(input: &mut Vec<u8>, random: &mut Random) {
    let as_json = random.below(4) != 0;
    let start = match input.windows(2).position(|pair| pair == b"\n\n") {
        Some(end) if serde_json::from_slice::<Value>(&input[end + 2..]).is_ok() => end + 2,
        Some(_) | None => 0,
    };
    match serde_json::from_slice::<Value>(&input[start..]) {
        Ok(mut document) if as_json => {
            mutate_json(&mut document, random);
            input.truncate(start);
            input.extend_from_slice(document.to_string().as_bytes());
        }
        Ok(_) | Err(_) => mutate_bytes(input, random),
    }
    input.truncate(MAX_INPUT);
}

/// What readers of lines, JSON, numbers and addresses stumble over.
const TOKENS: [&[u8]; 44] = [
    b"\0",
    b"\n",
    b"\r\n",
    b"\r",
    b"\n\n",
    b" ",
    b"\t",
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"0.1234567890123456789",
    b"18446744073709551616",
    b"9999999999",
    b"{\"a\":1,\"a\":2}",
    b"planted",
    b"250 ",
    b"250-",
    b"354 ",
    b"421 4.7.0 ",
    b"550 5.1.1 ",
    b"250 ok\r\n",
    b"250-LIMITS MAILMAX=",
    b"AUTH=LOGIN",
    b"W/\"1\"",
    b"@example.com",
    b"+15550100",
    b"https://",
    b"%00",
    b"xn--",
    "ä".as_bytes(),
    "\u{feff}".as_bytes(),
    b"\xff",
    b"\xed\xa0\x80",
];

fn mutate_bytes(input: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(input.len() + 1);
    let length = random.below(16).min(input.len() - at);
    match random.below(7) {
        0 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        1 => drop(input.drain(at..at + length)),
        2 => {
            let token = *random.one_of(&TOKENS);
            input.splice(at..at, token.iter().copied());
        }
        3 => {
            let token = *random.one_of(&TOKENS);
            input.splice(at..at + length, token.iter().copied());
        }
        4 => {
            // The same again, many times: what grows with its input is to be seen to.
            let piece = input[at..at + length].to_vec();
            let times = 1 << random.below(12);
            let more: Vec<_> = piece
                .iter()
                .copied()
                .cycle()
                .take(piece.len() * times)
                .collect();
            input.splice(at..at, more);
        }
        5 => {
            let mut lines: Vec<_> = input
                .split(|byte| *byte == b'\n')
                .map(<[u8]>::to_vec)
                .collect();
            let (one, other) = (random.below(lines.len()), random.below(lines.len()));
            lines.swap(one, other);
            *input = lines.join(&b'\n');
        }
        _ => input.truncate(at),
    }
}

fn mutate_json(document: &mut Value, random: &mut Random) {
    let places = pointers(document);
    let place = random.one_of(&places).clone();
    let other = random.one_of(&places).clone();
    let other = document.pointer(&other).cloned().unwrap_or_default();
    let Some(value) = document.pointer_mut(&place) else {
        return;
    };
    match random.below(9) {
        0 | 1 => *value = odd_value(random),
        2 => *value = other,
        3 => *value = nested(value.take(), random),
        4 | 5 => match value {
            Value::String(text) => {
                let mut bytes = std::mem::take(text).into_bytes();
                mutate_bytes(&mut bytes, random);
                *text = String::from_utf8_lossy(&bytes).into_owned();
            }
            Value::Number(number) => {
                let number = number.as_f64().unwrap_or_default();
                *value =
                    json!(random.one_of(&[number + 1.0, -number, number / 3.0, number * 1e17]));
            }
            Value::Array(items) => {
                let again: Vec<_> = items
                    .iter()
                    .cycle()
                    .take(items.len() << random.below(8))
                    .cloned()
                    .collect();
                *items = again;
            }
            Value::Null | Value::Bool(_) | Value::Object(_) => *value = odd_value(random),
        },
        6 => {
            if let Value::Object(fields) = value {
                let names: Vec<_> = fields.keys().cloned().collect();
                if !names.is_empty() {
                    fields.shift_remove(random.one_of(&names));
                }
            } else if let Value::Array(items) = value {
                items.truncate(random.below(items.len()));
            }
        }
        7 => {
            if let Value::Object(fields) = value {
                let name = odd_text(random);
                let names: Vec<_> = fields.keys().cloned().collect();
                let renamed = names
                    .get(random.below(names.len()))
                    .and_then(|name| fields.shift_remove(name));
                fields.insert(name, renamed.unwrap_or(other));
            }
        }
        _ => {
            if let Value::Object(fields) = value {
                fields.insert(odd_text(random), odd_value(random));
            } else if let Value::Array(items) = value {
                items.push(other);
            } else {
                *value = odd_value(random);
            }
        }
    }
}

/// Every place in a document.
fn pointers(document: &Value) -> Vec<String> {
    let mut found = vec![String::new()];
    let mut next = 0;
    while let Some(pointer) = found.get(next).cloned() {
        next += 1;
        let names: Vec<String> = match document.pointer(&pointer) {
            Some(Value::Object(fields)) => fields.keys().cloned().collect(),
            Some(Value::Array(items)) => (0..items.len().min(8))
                .map(|index| index.to_string())
                .collect(),
            Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) | None => {
                Vec::new()
            }
        };
        if found.len() < 2_000 {
            let escaped = names
                .iter()
                .map(|name| name.replace('~', "~0").replace('/', "~1"));
            found.extend(escaped.map(|name| format!("{pointer}/{name}")));
        }
    }
    found
}

fn odd_text(random: &mut Random) -> String {
    const LENGTHS: [usize; 22] = [
        1, 2, 16, 17, 32, 33, 63, 64, 65, 128, 129, 253, 256, 257, 320, 321, 500, 512, 513, 1_025,
        2_049, 4_097,
    ];
    let token = String::from_utf8_lossy(random.one_of::<&[u8]>(&TOKENS)).into_owned();
    let length = *random.one_of(&LENGTHS);
    match random.below(8) {
        0 => String::new(),
        1 | 2 => token,
        3 => "a".repeat(length),
        4 => "ä".repeat(length),
        5 => format!("https://a.example/{}", "ä".repeat(length)),
        6 => format!("{token}@{}.example", "a".repeat(length)),
        _ => [
            "true",
            "false",
            "587",
            "email",
            "whatsapp",
            "sent",
            "queued",
            "_global",
            "2026-12-01T10:00:00Z",
        ][random.below(9)]
        .to_owned(),
    }
}

fn odd_value(random: &mut Random) -> Value {
    match random.below(16) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(false),
        3 => json!(0),
        4 => json!(-1),
        5 => json!(u64::MAX),
        6 => json!(i64::MIN),
        7 => json!(0.1),
        8 => json!(1.797e308),
        9 => json!([]),
        10 => json!({}),
        11 => json!({"configured": true}),
        12 => {
            let kind = *random.one_of(&["S", "N", "BOOL", "B", "L", "M", "NULL", "SS"]);
            let inner = *random.one_of(&["", "1", "x", "planted"]);
            let inner = match kind {
                "BOOL" | "NULL" => json!(true),
                "L" | "SS" => json!([]),
                "M" => json!({}),
                _ => json!(inner),
            };
            Value::Object(Map::from_iter([(kind.to_owned(), inner)]))
        }
        13 => nested(json!("planted"), random),
        _ => json!(odd_text(random)),
    }
}

/// `value` inside of arrays or objects, perhaps of very many.
fn nested(mut value: Value, random: &mut Random) -> Value {
    // serde_json reads 127 levels.
    for _ in 0..*random.one_of(&[1, 2, 15, 16, 17, 100, 130]) {
        value = if random.below(2) == 0 {
            json!([value])
        } else {
            json!({"a": value})
        };
    }
    value
}
