//! The description of the lines, made from their types: what `--help` lists and what `docs/` has as tables.
//!
//! Owns: reading the types' JSON schemas. Called by: `args`, whose help texts end with it; the test that keeps `docs/` true.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value};

use super::lines::{AdminLine, AnswerLine, InterceptLine};
use crate::wording::help;

/// One event.
struct LineDescription {
    name: String,
    text: String,
    fields: Vec<FieldDescription>,
}

struct FieldDescription {
    name: String,
    /// All values, if they are few.
    values: Vec<String>,
    #[cfg(test)]
    text: String,
    /// Of the objects that it lists.
    #[cfg(test)]
    fields: Vec<FieldDescription>,
}

/// The end of `redir intercept --help`.
pub(crate) fn intercept_help() -> String {
    format!("{}\n\n{}\n{}\n{}", help::INTERCEPT_EXAMPLES, help::JSON_LINES, listed::<InterceptLine>(), help::JSON_REST)
}

/// The end of `redir doctor --help`, `list --help` and their like: only the events of this name.
pub(crate) fn answer_help(before: &str, names: &[&str]) -> String {
    let mut lines = describe::<AnswerLine>();
    lines.retain(|line| names.contains(&line.name.as_str()));
    format!("{before}\n\n{}\n{}", help::JSON_LINES, list(&lines))
}

/// The end of `redir install --help`.
pub(crate) fn admin_help(before: &str) -> String {
    format!("{before}\n\n{}\n{}", help::JSON_LINES, listed::<AdminLine>())
}

fn listed<T: JsonSchema>() -> String {
    list(&describe::<T>())
}

/// Name, meaning and fields, 80 columns wide: clap breaks no line that is shorter than the terminal.
fn list(lines: &[LineDescription]) -> String {
    let mut list = String::new();
    for line in lines {
        let separator = if line.name.len() < NAME { "" } else { "\n" };
        list += &wrapped(&format!("  {:<NAME$}", line.name), separator, &line.text);
        let fields = line.fields.iter().map(|field| match field.values.is_empty() {
            true => field.name.clone(),
            false => format!("{} ({})", field.name, field.values.join(", ")),
        });
        list += &wrapped("", "", &fields.collect::<Vec<_>>().join(", "));
    }
    list
}

/// The words behind `first`, indented.
fn wrapped(first: &str, separator: &str, words: &str) -> String {
    let indent = " ".repeat(NAME + 2);
    let mut text = format!("{first}{separator}");
    let mut line = if first.is_empty() || !separator.is_empty() { indent.clone() } else { String::new() };
    let mut column = NAME + 2;
    for word in words.split(' ') {
        if column + word.len() > WIDTH {
            text += &(line.trim_end().to_owned() + "\n");
            (line, column) = (indent.clone(), NAME + 2);
        }
        line += &format!("{word} ");
        column += word.len() + 1;
    }
    text + line.trim_end() + "\n"
}

/// Columns of an event's name.
const NAME: usize = 12;
/// Columns of a terminal.
const WIDTH: usize = 80;

/// The lines of a type, in its order.
fn describe<T: JsonSchema>() -> Vec<LineDescription> {
    let schema = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let schema: Schema = schema.into_generator().into_root_schema_for::<T>();
    let variants = schema.get("oneOf").and_then(Value::as_array);
    variants.into_iter().flatten().filter_map(line).collect()
}

fn line(variant: &Value) -> Option<LineDescription> {
    let properties = variant.get("properties")?.as_object()?;
    Some(LineDescription {
        name: properties.get("event")?.get("const")?.as_str()?.to_owned(),
        text: text(variant),
        fields: fields(properties).into_iter().filter(|field| field.name != "event").collect(),
    })
}

fn fields(properties: &Map<String, Value>) -> Vec<FieldDescription> {
    let field = |(name, schema): (&String, &Value)| FieldDescription {
        name: name.clone(),
        values: values(schema),
        #[cfg(test)]
        text: text(schema),
        #[cfg(test)]
        fields: schema["items"]["properties"].as_object().map(fields).unwrap_or_default(),
    };
    properties.iter().map(field).collect()
}

/// Those of an enumeration, also behind an `Option`.
fn values(schema: &Value) -> Vec<String> {
    let named = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().filter_map(|value| value.as_str().map(str::to_owned)).collect()
    };
    if let Some(list) = schema.get("enum") {
        return named(list);
    }
    if let Some(only) = schema.get("const").and_then(Value::as_str) {
        return vec![only.to_owned()];
    }
    schema.get("anyOf").and_then(Value::as_array).into_iter().flatten().flat_map(values).collect()
}

/// A description, with its lines joined.
fn text(schema: &Value) -> String {
    let text = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    /// Rewrites the tables instead of comparing them.
    const WRITE: &str = "REDIR_WRITE_DOCS";
    const BEGIN: &str = "<!-- made from cli/src/json/lines.rs: begin -->";
    const END: &str = "<!-- end -->";

    fn table(lines: &[LineDescription]) -> String {
        let mut table = "| event | when | fields |\n|---|---|---|\n".to_owned();
        for line in lines {
            let fields: Vec<String> = line.fields.iter().map(field).collect();
            let cells = [format!("`{}`", line.name), line.text.clone(), fields.join("; ")];
            table += &format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).join(" | "));
        }
        table
    }

    fn field(field: &FieldDescription) -> String {
        let values: Vec<String> = field.values.iter().map(|value| format!("`{value}`")).collect();
        let inner: Vec<String> = field.fields.iter().map(self::field).collect();
        let remarks = [values.join(", "), field.text.trim_end_matches('.').to_owned(), inner.join(", ")];
        let remarks: Vec<String> = remarks.into_iter().filter(|remark| !remark.is_empty()).collect();
        match remarks.is_empty() {
            true => format!("`{}`", field.name),
            false => format!("`{}` ({})", field.name, remarks.join("; ")),
        }
    }

    fn tables() -> String {
        format!(
            "{BEGIN}\n\n## Events of `redir intercept`\n\n{}\n## Events of `redir list`, `status`, `leave`, `describe` and \
             `doctor`\n\n{}\n## Events of `redir install`, `upgrade` and `uninstall`\n\n{}\n{END}",
            table(&describe::<InterceptLine>()),
            table(&describe::<AnswerLine>()),
            table(&describe::<AdminLine>()),
        )
    }

    fn page() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/src/json-events.md")
    }

    #[test]
    fn the_documentation_is_what_is_written() {
        let page = page();
        let text = std::fs::read_to_string(&page).unwrap();
        let (before, rest) = text.split_once(BEGIN).unwrap();
        let (_, after) = rest.split_once(END).unwrap();
        let wanted = format!("{before}{}{after}", tables());
        if std::env::var_os(WRITE).is_some() {
            std::fs::write(&page, wanted).unwrap();
        } else {
            assert_eq!(text, wanted, "{} is outdated: run this test with {WRITE}=1", page.display());
        }
    }

    #[test]
    fn every_line_and_field_is_described() {
        let lines = [describe::<InterceptLine>(), describe::<AnswerLine>(), describe::<AdminLine>()].concat_all();
        assert_eq!(lines.len(), 24 + 8 + 5);
        for line in &lines {
            assert!(line.text.ends_with('.') && !line.fields.is_empty(), "{}: {}", line.name, line.text);
        }
        let conflict = lines.iter().find(|line| line.name == "conflict").unwrap();
        let fields: Vec<&str> = conflict.fields.iter().map(|field| field.name.as_str()).collect();
        assert_eq!(fields, ["agent", "developer", "id", "pod", "since", "takes", "yours"]);
        let takes = conflict.fields.iter().find(|field| field.name == "takes").unwrap();
        assert_eq!(takes.values, ["everything", "shared"]);
    }

    trait ConcatAll {
        fn concat_all(self) -> Vec<LineDescription>;
    }

    impl<const N: usize> ConcatAll for [Vec<LineDescription>; N] {
        fn concat_all(self) -> Vec<LineDescription> {
            self.into_iter().flatten().collect()
        }
    }

    #[test]
    fn the_list_in_the_help_is_80_columns_wide() {
        for text in [listed::<InterceptLine>(), listed::<AnswerLine>(), listed::<AdminLine>()] {
            for line in text.lines() {
                assert!(line.len() <= WIDTH && line.starts_with("  "), "{line:?}");
            }
        }
    }
}
