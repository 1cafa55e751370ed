//! Files of the operator's `import`.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::BufReader,
};

use comms_core::{Problems, Tenant};
use comms_operator::clinics_file::{ClinicItem, ClinicsFile, MAX_ITEM, RefusedItem};
use comms_testkit::fuzz::PLANTED;

/// What reading a file came to.
#[derive(Debug, PartialEq)]
struct Read {
    /// Of all items in their order.
    digest: u64,
    /// Bytes of the file that were read.
    position: u64,
    /// Whether the last item says that the rest was not read.
    says_where: bool,
}

/// Reads a file, `buffer` bytes at a time. One item is kept at a time, as by those who read files.
fn read_file(input: &[u8], buffer: usize, lines: bool) -> Read {
    let mut file = ClinicsFile::new(BufReader::with_capacity(buffer, input), lines);
    let (mut digest, mut items, mut says_where) = (DefaultHasher::new(), 0, false);
    while let Some(item) = file.next_item().unwrap() {
        items += 1;
        assert!(items <= input.len() + 1, "more items than bytes");
        check_item(&item);
        shown(&item).hash(&mut digest);
        says_where = matches!(&item, Err(refused)
            if refused.problems.iter().any(|problem| problem.detail.ends_with("was not read from here on")));
    }
    Read {
        digest: digest.finish(),
        position: file.position(),
        says_where,
    }
}

/// What is refused is not repeated.
fn check_item(item: &Result<ClinicItem, RefusedItem>) {
    match item {
        Ok(item) => {
            assert!(Tenant::parse(item.tenant.as_str()).as_ref() == Ok(&item.tenant));
            assert!(item.document.to_string().len() <= 6 * MAX_ITEM);
        }
        Err(refused) => {
            assert!(!refused.problems.is_empty() && refused.problems.len() <= Problems::MOST);
            for problem in &refused.problems {
                assert!(!problem.detail.contains(PLANTED), "{problem:?}");
            }
        }
    }
}

/// A file is read to its end or says where it is not; whatever is read of it at a time.
pub(super) fn read_import_file(input: &[u8]) {
    for lines in [false, true] {
        let read = read_file(input, 8_192, lines);
        assert_eq!(read_file(input, 3, lines), read);
        let rest = &input[usize::try_from(read.position).unwrap()..];
        assert!(
            read.says_where || rest.is_empty(),
            "{} bytes were passed over",
            rest.len()
        );
    }
}

/// What tells two items apart.
fn shown(item: &Result<ClinicItem, RefusedItem>) -> String {
    match item {
        Ok(item) => format!("{} {} {}", item.line, item.tenant, item.document),
        Err(refused) => format!("{refused:?}"),
    }
}
