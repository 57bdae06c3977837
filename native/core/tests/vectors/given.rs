//! The files, and how their values are read and compared.

use std::fmt::Debug;
use std::path::Path;

use serde_json::Value;

/// One known answer.
pub struct Vector {
    /// The name of its file.
    pub file: String,
    pub id: String,
    pub op: String,
    pub input: Value,
    pub expect: Value,
}

/// All of them.
pub struct Vectors(Vec<Vector>);

impl Vectors {
    /// Reads every `*.json` of a folder.
    pub fn read(folder: &Path) -> Vectors {
        let listed = std::fs::read_dir(folder)
            .unwrap_or_else(|error| panic!("cannot list {}: {error}", folder.display()));
        let mut paths: Vec<_> = listed
            .map(|entry| entry.expect("an entry of the folder").path())
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "json")
            })
            .collect();
        paths.sort();
        Vectors(paths.iter().flat_map(|path| file(path)).collect())
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Vector> {
        self.0.iter()
    }

    /// The vector that `from` refers to by its id: one of the same file.
    #[allow(dead_code)]
    pub fn referred(&self, from: &Vector, id: &str) -> Result<&Vector, String> {
        self.iter()
            .find(|vector| vector.file == from.file && vector.id == id)
            .ok_or_else(|| format!("no vector {id} in {}", from.file))
    }
}

fn file(path: &Path) -> Vec<Vector> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let text = std::fs::read_to_string(path)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    let content: Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name} is no JSON: {error}"));
    let vectors = content["vectors"]
        .as_array()
        .unwrap_or_else(|| panic!("{name} has no list of vectors"));
    assert!(!vectors.is_empty(), "{name} has no vectors");

    let text = |vector: &Value, key: &str| match vector[key].as_str() {
        Some(text) => text.to_string(),
        None => panic!("{name}: a vector without {key}: {vector}"),
    };
    vectors
        .iter()
        .map(|vector| Vector {
            file: name.to_string(),
            id: text(vector, "id"),
            op: text(vector, "op"),
            input: vector["input"].clone(),
            expect: vector["expect"].clone(),
        })
        .collect()
}

/// A number without fraction; those that need 64 bits are written as decimal text.
pub fn integer(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.parse().ok(),
        // Some are written as 10.0.
        _ => value.as_u64().or_else(|| {
            value
                .as_f64()
                .filter(|n| n.fract() == 0.0 && *n >= 0.0)
                .map(|n| n as u64)
        }),
    }
    .unwrap_or_else(|| panic!("expected an integer, got {value}"))
}

/// As [`integer`], or the default for what is absent or null.
pub fn integer_or(value: &Value, default: u64) -> u64 {
    if value.is_null() {
        default
    } else {
        integer(value)
    }
}

/// A number; what JSON has no number for is written as text (`"NaN"`, `"Infinity"`).
pub fn number(value: &Value) -> f64 {
    match value {
        Value::String(text) => text.parse().ok(),
        _ => value.as_f64(),
    }
    .unwrap_or_else(|| panic!("expected a number, got {value}"))
}

/// As [`number`], or the default for what is absent or null.
pub fn number_or(value: &Value, default: f64) -> f64 {
    if value.is_null() {
        default
    } else {
        number(value)
    }
}

/// A list; an absent one is a mistake.
pub fn list(value: &Value) -> &[Value] {
    value
        .as_array()
        .unwrap_or_else(|| panic!("expected a list, got {value}"))
}

/// A text.
pub fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("expected a text, got {value}"))
}

/// A list of integers.
pub fn integers(value: &Value) -> Vec<u64> {
    list(value).iter().map(integer).collect()
}

/// A list of numbers.
pub fn numbers(value: &Value) -> Vec<f64> {
    list(value).iter().map(number).collect()
}

/// Fails unless what came out is what was expected.
pub fn same<T: PartialEq + Debug>(what: &str, got: &T, expected: &T) -> Result<(), String> {
    if got == expected {
        Ok(())
    } else {
        Err(format!("{what}: expected {expected:?}, got {got:?}"))
    }
}

/// Fails unless both are the same up to `relative` of the expected one.
pub fn near(what: &str, got: f64, expected: f64, relative: f64) -> Result<(), String> {
    if got == expected || (got - expected).abs() <= relative * expected.abs() {
        Ok(())
    } else {
        Err(format!("{what}: expected {expected}, got {got}"))
    }
}

/// [`near`] for every pair of two lists, which are equally long.
pub fn all_near(what: &str, got: &[f64], expected: &[f64], relative: f64) -> Result<(), String> {
    same(&format!("number of {what}"), &got.len(), &expected.len())?;
    let pairs = got.iter().zip(expected).enumerate();
    pairs.into_iter().try_for_each(|(i, (got, expected))| {
        near(&format!("{what}[{i}]"), *got, *expected, relative)
    })
}

/// Fails if there is anything else than these keys, which would go unheeded.
pub fn only(value: &Value, keys: &[&str]) -> Result<(), String> {
    let Some(fields) = value.as_object() else {
        return Err(format!("expected an object, got {value}"));
    };
    match fields.keys().find(|key| !keys.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => Err(format!("does not understand {key}")),
    }
}
