//! Typed access to one TOML table that knows its place in the file.
//!
//! Owns the wording of "file:line: key: problem". Knows nothing of what the keys mean. Called by `config` only.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// Why a configuration file is not usable: names the file, the line and the key, and ends with the next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    file: PathBuf,
    line: Option<usize>,
    key: Option<String>,
    problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(key) = &self.key {
            write!(f, ": {key}")?;
        }
        write!(f, ": {}", self.problem)
    }
}

impl std::error::Error for ConfigError {}

/// The file under the reader: its name for messages, its text for line numbers.
#[derive(Clone, Copy)]
pub(super) struct ConfigSource<'a> {
    pub(super) file: &'a Path,
    pub(super) text: &'a str,
}

impl<'a> ConfigSource<'a> {
    /// Parses the text; the result is the file's root table.
    pub(super) fn root(self) -> Result<ConfigSection<'a>, ConfigError> {
        let table = DeTable::parse(self.text).map_err(|error| ConfigError {
            file: self.file.to_owned(),
            line: error.span().map(|span| self.line(span.start)),
            key: None,
            problem: format!("not valid TOML: {}; correct this line", error.message().trim().replace('\n', ", ")),
        })?;
        Ok(ConfigSection { source: self, path: String::new(), at: 0, table: table.into_inner() })
    }

    fn line(self, offset: usize) -> usize {
        let upto = self.text.as_bytes().get(..offset).unwrap_or_default();
        1 + upto.iter().filter(|byte| **byte == b'\n').count()
    }

    fn error(self, at: usize, key: &str, problem: impl fmt::Display) -> ConfigError {
        ConfigError {
            file: self.file.to_owned(),
            line: Some(self.line(at)),
            key: Some(key.to_owned()).filter(|key| !key.is_empty()),
            problem: problem.to_string(),
        }
    }
}

/// One table. Keys are taken out as they are read; what is left at `finish` is unknown.
pub(super) struct ConfigSection<'a> {
    source: ConfigSource<'a>,
    path: String,
    at: usize,
    table: DeTable<'a>,
}

/// Where a key stands; outlives the value, for errors about two entries.
#[derive(Clone)]
pub(super) struct KeyPlace<'a> {
    source: ConfigSource<'a>,
    path: String,
    at: usize,
}

impl KeyPlace<'_> {
    /// An error about what stands here.
    pub(super) fn error(&self, problem: impl fmt::Display) -> ConfigError {
        self.source.error(self.at, &self.path, problem)
    }
}

/// One value with its place.
pub(super) struct PlacedValue<'a> {
    place: KeyPlace<'a>,
    value: DeValue<'a>,
}

impl<'a> ConfigSection<'a> {
    /// Takes a key that may be absent.
    pub(super) fn optional(&mut self, key: &str) -> Option<PlacedValue<'a>> {
        let (name, value) = self.table.remove_entry(key)?;
        let path = join(&self.path, key);
        let place = KeyPlace { source: self.source, path, at: name.span().start };
        Some(PlacedValue { place, value: value.into_inner() })
    }

    /// Takes a key that must be there; `hint` says what to write.
    pub(super) fn required(&mut self, key: &str, hint: &str) -> Result<PlacedValue<'a>, ConfigError> {
        self.optional(key).ok_or_else(|| self.missing(key, hint))
    }

    /// A key is not there that must be; `hint` says what to write.
    pub(super) fn missing(&self, key: &str, hint: &str) -> ConfigError {
        self.source.error(self.at, &join(&self.path, key), format!("is missing; {hint}"))
    }

    /// Refuses keys that nobody took. `known` lists what may stand here.
    pub(super) fn finish(self, known: &str) -> Result<(), ConfigError> {
        let Some(name) = self.table.keys().min_by_key(|name| name.span().start) else { return Ok(()) };
        let path = join(&self.path, name.get_ref());
        Err(self.source.error(
            name.span().start,
            &path,
            format!("is not a known key; remove or correct it (known: {known})"),
        ))
    }

    /// All keys of a table whose keys are free (labels), in file order.
    pub(super) fn entries(self) -> Vec<(String, PlacedValue<'a>)> {
        let Self { source, path, table, .. } = self;
        let mut entries: Vec<_> = table
            .into_iter()
            .map(|(name, value)| {
                let at = name.span().start;
                let name = name.into_inner().into_owned();
                let place = KeyPlace { source, path: join(&path, &name), at };
                (name, PlacedValue { place, value: value.into_inner() })
            })
            .collect();
        entries.sort_by_key(|(_, value)| value.place.at);
        entries
    }
}

impl<'a> PlacedValue<'a> {
    /// An error about this value.
    pub(super) fn error(&self, problem: impl fmt::Display) -> ConfigError {
        self.place.error(problem)
    }

    /// Where it stands.
    pub(super) fn place(&self) -> KeyPlace<'a> {
        self.place.clone()
    }

    /// The value as a string.
    pub(super) fn text(&self) -> Result<&str, ConfigError> {
        match &self.value {
            DeValue::String(text) => Ok(text),
            other => Err(self.error(format!("is {} where a string is needed; put it in double quotes", kind(other)))),
        }
    }

    /// The value as a whole number.
    pub(super) fn integer(&self) -> Result<i64, ConfigError> {
        match &self.value {
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map_err(|_| self.error("is too large a number; write a smaller one")),
            other => {
                Err(self.error(format!("is {} where a whole number is needed; write it without quotes", kind(other))))
            }
        }
    }

    /// The value as true or false.
    pub(super) fn boolean(&self) -> Result<bool, ConfigError> {
        match &self.value {
            DeValue::Boolean(value) => Ok(*value),
            other => {
                Err(self.error(format!("is {} where true or false is needed; write it without quotes", kind(other))))
            }
        }
    }

    /// The value as a list; each item's path carries its index.
    pub(super) fn list(self) -> Result<Vec<PlacedValue<'a>>, ConfigError> {
        match self.value {
            DeValue::Array(items) => Ok(items
                .into_iter()
                .enumerate()
                .map(|(index, item): (usize, Spanned<DeValue<'a>>)| {
                    let path = format!("{}[{index}]", self.place.path);
                    let place = KeyPlace { source: self.place.source, path, at: item.span().start };
                    PlacedValue { place, value: item.into_inner() }
                })
                .collect()),
            ref other => {
                Err(self.error(format!("is {} where a list is needed; put it in square brackets", kind(other))))
            }
        }
    }

    /// The value as a table.
    pub(super) fn section(self) -> Result<ConfigSection<'a>, ConfigError> {
        match self.value {
            DeValue::Table(table) => {
                let KeyPlace { source, path, at } = self.place;
                Ok(ConfigSection { source, path, at, table })
            }
            ref other => Err(self.error(format!(
                "is {} where a table is needed; write it as {{ key = \"value\" }} or under a [heading]",
                kind(other)
            ))),
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
