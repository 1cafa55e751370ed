//! Files of the repository.

use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Map, Value, json};

/// The root of the repository.
pub const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// A file of the repository.
pub fn file(path: &str) -> String {
    std::fs::read_to_string(format!("{ROOT}/{path}")).unwrap()
}

/// A YAML file of the repository as JSON. A tag, such as `!Ref` of a template, counts for nothing.
pub fn yaml(path: &str) -> Value {
    let text = file(path);
    let [document] = Yaml::load_from_str(&text).unwrap().try_into().unwrap();
    to_json(document)
}

fn to_json(yaml: Yaml<'_>) -> Value {
    match yaml {
        Yaml::Value(Scalar::Null) => Value::Null,
        Yaml::Value(Scalar::Boolean(value)) => json!(value),
        Yaml::Value(Scalar::Integer(value)) => json!(value),
        Yaml::Value(Scalar::FloatingPoint(value)) => json!(value.into_inner()),
        Yaml::Value(Scalar::String(value)) => json!(value),
        Yaml::Sequence(items) => items.into_iter().map(to_json).collect(),
        Yaml::Mapping(fields) => fields
            .into_iter()
            .map(|(name, value)| (name.into_string().unwrap(), to_json(value)))
            .collect::<Map<_, _>>()
            .into(),
        Yaml::Tagged(_, value) => to_json(*value),
        other @ (Yaml::Representation(..) | Yaml::Alias(_) | Yaml::BadValue) => {
            panic!("not a value: {other:?}")
        }
    }
}
