//! The list of the functions. A new one is a package below `functions/` with its `FUNCTION`, a line here, and its
//! resources in `template.yaml`.

pub use comms_runtime::{
    Function,
    function::{SourceQueue, Trigger},
    http::routes::{Authorizer, Route},
};

/// Every function.
pub const ALL: [&Function; 5] = [
    &comms_send::FUNCTION,
    &comms_status::FUNCTION,
    &comms_worker::FUNCTION,
    &comms_config::FUNCTION,
    &comms_config_test::FUNCTION,
];

/// The name of every function.
pub const NAMES: [&str; ALL.len()] = {
    let mut names = [""; ALL.len()];
    let mut index = 0;
    while index < ALL.len() {
        names[index] = ALL[index].name;
        index += 1;
    }
    names
};

/// The function with the name of a program.
pub fn named(name: &str) -> Option<&'static Function> {
    ALL.into_iter().find(|function| function.name == name)
}

/// Every route of the API, with the function that answers it.
pub fn routes() -> Vec<(Route, &'static Function)> {
    let of_function =
        |function: &'static Function| function.routes().into_iter().map(move |r| (r, function));
    ALL.into_iter().flat_map(of_function).collect()
}
