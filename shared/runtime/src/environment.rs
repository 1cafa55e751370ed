//! The environment, read once at start-up. Everything missing or malformed is reported together, so
//! that a deployment is mended once and not variable by variable.

use std::{cell::RefCell, fmt, str::FromStr};

use comms_core::variables::Variables;

/// What is wrong with the environment. Names only: a value may be a secret put in the wrong place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentError {
    missing: Vec<String>,
    malformed: Vec<String>,
}

impl fmt::Display for EnvironmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.missing.is_empty() {
            parts.push(format!("missing: {}", self.missing.join(", ")));
        }
        if !self.malformed.is_empty() {
            parts.push(format!("malformed: {}", self.malformed.join("; ")));
        }
        write!(f, "the environment cannot be used ({})", parts.join("; "))
    }
}

impl std::error::Error for EnvironmentError {}

type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Reads variables and collects their errors.
pub struct Environment<'a> {
    lookup: Box<Lookup<'a>>,
    error: RefCell<EnvironmentError>,
}

impl Environment<'_> {
    /// The process's own environment.
    pub fn of_process() -> Self {
        Self::from_lookup(|name| std::env::var(name).ok())
    }
}

impl<'a> Environment<'a> {
    /// An environment of any source of values by name.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String> + 'a) -> Self {
        let error = EnvironmentError {
            missing: Vec::new(),
            malformed: Vec::new(),
        };
        Self {
            lookup: Box::new(lookup),
            error: RefCell::new(error),
        }
    }

    /// A required variable. If it is missing or empty, the value is an empty text, and [`Environment::finish`] returns the
    /// error.
    pub fn required(&self, name: &str) -> String {
        let value = (self.lookup)(name).filter(|value| !value.is_empty());
        value.unwrap_or_else(|| {
            self.error.borrow_mut().missing.push(name.to_owned());
            String::new()
        })
    }

    /// A variable that may be absent.
    pub fn optional(&self, name: &str) -> Option<String> {
        (self.lookup)(name)
    }

    /// An optional variable that must be well-formed.
    pub fn parsed<T: FromStr<Err: fmt::Display> + Default>(&self, name: &str) -> T {
        match self.optional(name).map(|value| value.parse::<T>()) {
            None => T::default(),
            Some(Ok(value)) => value,
            Some(Err(error)) => {
                self.malformed(name, &error);
                T::default()
            }
        }
    }

    /// An optional variable that must be well-formed unless it is empty.
    pub fn parsed_or<T: FromStr<Err: fmt::Display>>(&self, name: &str, default: T) -> T {
        let value = self.optional(name).filter(|value| !value.is_empty());
        match value.map(|value| value.parse::<T>()) {
            None => default,
            Some(Ok(value)) => value,
            Some(Err(error)) => {
                self.malformed(name, &error);
                default
            }
        }
    }

    /// The text of the file that an optional variable names.
    pub fn file(&self, name: &str) -> Option<String> {
        let path = self.optional(name).filter(|path| !path.is_empty())?;
        std::fs::read_to_string(path)
            .map_err(|error| {
                self.malformed(name, &format!("the file cannot be read: {}", error.kind()));
            })
            .ok()
    }

    /// Notes that a variable is malformed.
    pub fn malformed(&self, name: &str, why: &dyn fmt::Display) {
        self.error
            .borrow_mut()
            .malformed
            .push(format!("{name}: {why}"));
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// All variables that are missing or malformed.
    pub fn finish(&self) -> Result<(), EnvironmentError> {
        let error = self.error.borrow();
        if error.missing.is_empty() && error.malformed.is_empty() {
            Ok(())
        } else {
            Err(error.clone())
        }
    }
}

impl Variables for Environment<'_> {
    fn required(&self, name: &str) -> String {
        Environment::required(self, name)
    }

    fn parsed<T: FromStr<Err: fmt::Display> + Default>(&self, name: &str) -> T {
        Environment::parsed(self, name)
    }

    fn file(&self, name: &str) -> Option<String> {
        Environment::file(self, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_missing_or_malformed_is_named_together() {
        let environment = Environment::from_lookup(|name| match name {
            "EMPTY" => Some(String::new()),
            "NUMBER" => Some("x".to_owned()),
            "RATE" => Some("0".to_owned()),
            "FILE" => Some("/does/not/exist".to_owned()),
            "GOOD" => Some("5".to_owned()),
            _ => None,
        });
        environment.required("ABSENT");
        environment.required("EMPTY");
        assert_eq!(environment.parsed::<u8>("GOOD"), 5);
        environment.parsed::<u8>("NUMBER");
        assert_eq!(environment.parsed_or("EMPTY", 7_u8), 7);
        environment.parsed_or("RATE", std::num::NonZeroU32::MIN);
        environment.file("FILE");
        let error = environment.finish().unwrap_err().to_string();
        for name in ["ABSENT", "EMPTY", "NUMBER", "RATE", "FILE"] {
            assert!(error.contains(name), "{error}");
        }
        assert!(!error.contains("GOOD"));
    }
}
