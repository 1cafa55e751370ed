//! Fuzz targets of what may be reached from outside of its crate: see [`comms_testkit::fuzz`].

mod import_file;
mod json;
mod names;
#[cfg(test)]
mod package;
mod request;

use std::sync::LazyLock;

use comms_core::PhoneNumber;

// A JSON value takes up to 72 bytes for two or three of its text, a member of an object twice that, and a vector of them
// twice as much while it grows. A numbering plan's regular expressions are compiled when its first number comes, and take
// some MB together; phonenumber keeps a hundred.
comms_testkit::fuzz_targets! {
    /// JSON in all requests.
    json_texts = crate::fuzz::json::read_json, 20_000 + 600 * length;
    /// Communications.
    requests = crate::fuzz::request::read_request, 10_000_000 + 600 * length;
    /// Hosts, URLs, addresses, numbers and identifiers.
    names = crate::fuzz::names::read_names, 10_000_000 + 200 * length;
    /// Files of the operator's `import`.
    import_files = crate::fuzz::import_file::read_import_file, 100_000 + 600 * length;
}

/// The numbering plans of all countries, once read, stay.
static NUMBERING_PLANS: LazyLock<()> = LazyLock::new(|| {
    allocation_counter::opt_out(|| assert!(PhoneNumber::parse("+15550100").is_ok()));
});
