//! Reading an object field by field.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Problems, pointer::pointer_to};
use crate::near::{is_near_miss, nearest};

/// An object being read. Call [`Object::finish`] when all known fields are taken.
#[derive(Debug)]
pub struct Object<'p> {
    pointer: String,
    fields: Map<String, Value>,
    /// The names that were asked for.
    known: Vec<&'static str>,
    problems: &'p mut Problems,
}

impl<'p> Object<'p> {
    /// Starts to read `value`, whose JSON pointer is `pointer`. Anything but an object is a problem.
    pub fn new(
        value: Value,
        pointer: impl Into<String>,
        problems: &'p mut Problems,
    ) -> Option<Self> {
        let pointer = pointer.into();
        if let Value::Object(fields) = value {
            Some(Self {
                pointer,
                fields,
                known: Vec::new(),
                problems,
            })
        } else {
            problems.add(pointer, "must be an object");
            None
        }
    }

    /// The object's JSON pointer.
    pub fn pointer(&self) -> &str {
        &self.pointer
    }

    /// The JSON pointer of its field `name`.
    pub fn pointer_to(&self, name: &str) -> String {
        pointer_to(&self.pointer, name)
    }

    /// Takes a field out as it is. `null` is the same as absent.
    pub fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.fields
            .shift_remove(name)
            .filter(|value| !value.is_null())
    }

    /// Reads a field that must be there.
    pub fn required<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(Value) -> Result<T, String>,
    ) -> Option<T> {
        if let Some(value) = self.take(name) {
            self.read(name, value, read)
        } else {
            self.problem(name, "is required");
            None
        }
    }

    /// Reads a field that may be absent.
    pub fn optional<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(Value) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.take(name)?;
        self.read(name, value, read)
    }

    fn read<T>(
        &mut self,
        name: &str,
        value: Value,
        read: impl FnOnce(Value) -> Result<T, String>,
    ) -> Option<T> {
        read(value)
            .map_err(|detail| self.problem(name, detail))
            .ok()
    }

    /// Reads an object that may be absent, with `read`.
    pub fn object<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(Object<'_>) -> Option<T>,
    ) -> Option<T> {
        let value = self.take(name)?;
        let pointer = self.pointer_to(name);
        Object::new(value, pointer, self.problems).and_then(read)
    }

    /// Reads an array of objects that may be absent, at most `most` of them, each with `read`.
    pub fn objects<T>(
        &mut self,
        name: &'static str,
        most: usize,
        mut read: impl FnMut(usize, Object<'_>) -> Option<T>,
    ) -> Vec<T> {
        let items = match self.take(name) {
            None => return Vec::new(),
            Some(Value::Array(items)) if items.len() <= most => items,
            Some(_) => {
                self.problem(name, format!("must be an array of at most {most} objects"));
                return Vec::new();
            }
        };
        let pointer = self.pointer_to(name);
        items
            .into_iter()
            .enumerate()
            .filter_map(|(index, item)| {
                let item = Object::new(item, format!("{pointer}/{index}"), self.problems)?;
                read(index, item)
            })
            .collect()
    }

    /// Whether the field `name` is absent or `null`.
    pub fn is_missing(&self, name: &str) -> bool {
        self.fields.get(name).is_none_or(Value::is_null)
    }

    /// The length of the array in the field `name`; 0 where there is none.
    pub fn array_length(&self, name: &str) -> usize {
        self.fields
            .get(name)
            .and_then(Value::as_array)
            .map_or(0, Vec::len)
    }

    /// Takes the remaining fields, at most `most`, as a map. `name_ok` accepts a name and `read` a value; a field that either
    /// refuses is a problem with `detail`. A name that nearly equals a known field is a problem as well: a misspelt field
    /// must not pass for one of the caller's own.
    pub fn rest<T>(
        mut self,
        most: usize,
        name_ok: impl Fn(&str) -> bool,
        read: impl Fn(Value) -> Result<T, String>,
        detail: &str,
    ) -> BTreeMap<String, T> {
        if self.fields.len() > most {
            self.problem_here(format!("must have at most {most} further fields"));
            return BTreeMap::new();
        }
        let mut rest = BTreeMap::new();
        for (name, value) in std::mem::take(&mut self.fields) {
            let known = self.known.iter().find(|known| is_near_miss(&name, known));
            if let Some(known) = known {
                let detail =
                    format!("is not {known}; write {known}, or choose a name that is less like it");
                let pointer = self.pointer_to(&name);
                self.problems.add_misspelt(pointer, detail, known);
                continue;
            }
            match read(value) {
                Ok(value) if name_ok(&name) => {
                    rest.insert(name, value);
                }
                Ok(_) | Err(_) => {
                    let pointer = self.pointer_to(&name);
                    self.problems.add_foreign(pointer, detail);
                }
            }
        }
        rest
    }

    /// Notes that the field `name` is missing, unless it has a problem already.
    pub fn missing(&mut self, name: &str, detail: impl Into<String>) {
        let pointer = self.pointer_to(name);
        if !self.problems.has(&pointer) {
            self.problems.add(pointer, detail);
        }
    }

    /// Notes a problem with the field `name`.
    pub fn problem(&mut self, name: &str, detail: impl Into<String>) {
        let pointer = self.pointer_to(name);
        self.problems.add(pointer, detail);
    }

    /// Notes a problem with an element of the array in the field `name`.
    pub fn problem_at(&mut self, name: &str, index: usize, detail: impl Into<String>) {
        let pointer = format!("{}/{index}", self.pointer_to(name));
        self.problems.add(pointer, detail);
    }

    /// Notes a problem with the object itself.
    pub fn problem_here(&mut self, detail: impl Into<String>) {
        self.problems.add(self.pointer.clone(), detail);
    }

    /// Refuses, with `detail`, each field that was not taken and is named like one of `names`, or nearly so: it belongs
    /// elsewhere.
    pub fn misplaced(&mut self, names: &[&str], detail: &str) {
        let is_meant = |field: &String| {
            let mut names = names.iter();
            names.any(|name| field == name || is_near_miss(field, name))
        };
        let misplaced: Vec<_> = self
            .fields
            .keys()
            .filter(|name| is_meant(name))
            .cloned()
            .collect();
        for name in misplaced {
            self.fields.shift_remove(&name);
            let pointer = self.pointer_to(&name);
            self.problems.add_foreign(pointer, detail);
        }
    }

    /// Whether a field that was not taken is there and `null`.
    pub fn is_null(&self, name: &str) -> bool {
        self.fields.get(name).is_some_and(Value::is_null)
    }

    /// Ends the reading: each field that was not taken is a problem.
    pub fn finish(self) {
        for name in self.fields.keys() {
            // Comparing names is slow: no further problem is kept, so none is looked for.
            if self.problems.is_full() {
                return;
            }
            let pointer = pointer_to(&self.pointer, name);
            if let Some(known) = nearest(name, &self.known) {
                let detail = format!("is not a known field; did you mean {known}?");
                self.problems.add_misspelt(pointer, detail, known);
            } else {
                let detail = "is not a known field; remove it";
                self.problems.add_foreign(pointer, detail);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::json::read;

    use super::*;

    #[test]
    fn every_problem_is_reported_together_with_its_pointer() {
        let mut problems = Problems::default();
        let mut object = Object::new(
            json!({"port": "x", "flag": 1, "a/b~c": 1, "inner": {"deep": 1}}),
            "/s",
            &mut problems,
        )
        .unwrap();
        object.required("port", read::number(1, 65_535));
        object.optional("flag", read::flag);
        object.required("name", read::string);
        object.object("inner", |inner| {
            inner.finish();
            Some(())
        });
        object.finish();
        let found: Vec<_> = problems
            .as_slice()
            .iter()
            .map(|p| p.pointer.as_str())
            .collect();
        assert_eq!(
            found,
            [
                "/s/port",
                "/s/flag",
                "/s/name",
                "/s/inner/deep",
                "/s/a~1b~0c"
            ]
        );
    }
}
