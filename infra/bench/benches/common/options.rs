//! The options of a benchmark: `--name value` or `--name`.

/// Calls `take` with each option, and with a function that returns the option's value. `take` returns false for an option
/// that does not exist; `usage` names those that do.
///
/// # Panics
/// For an option that does not exist, or without its value.
pub(crate) fn read(usage: &str, mut take: impl FnMut(&str, &mut dyn FnMut() -> String) -> bool) {
    let mut arguments = std::env::args().skip(1);
    while let Some(option) = arguments.next() {
        let mut value = || {
            let value = arguments.next();
            value.unwrap_or_else(|| panic!("{option} takes a value"))
        };
        // Cargo adds --bench.
        assert!(
            option == "--bench" || take(&option, &mut value),
            "there is no {option}; there are {usage}"
        );
    }
}
