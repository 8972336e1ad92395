//! `proto/redir.proto` against the messages that redir is built from: every message, field, number and type.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto};

const SOURCE: &str = include_str!("../src/proto.rs");

/// `optional uint32 grpc_status = 32`, and the oneof that it is in.
type Field = (String, Option<String>);
type Messages = BTreeMap<String, BTreeSet<Field>>;

#[test]
fn the_file_says_what_the_code_does() {
    let (ours, theirs) = (of_source(), of_file());
    assert_eq!(theirs.keys().collect::<Vec<_>>(), ours.keys().collect::<Vec<_>>());
    for (name, fields) in ours {
        assert_eq!(theirs[&name], fields, "message {name}");
    }
}

fn of_file() -> Messages {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let files = protox::compile(["redir.proto"], [directory]).expect("a valid file").file;
    assert_eq!(files.len(), 1);
    files[0].message_type.iter().map(|message| (message.name().to_owned(), fields(message))).collect()
}

fn fields(message: &DescriptorProto) -> BTreeSet<Field> {
    let field = |field: &FieldDescriptorProto| {
        let is_optional = field.proto3_optional();
        let label = match field.label() {
            Label::Repeated => "repeated ",
            _ if is_optional => "optional ",
            _ => "",
        };
        let oneof = field.oneof_index.filter(|_| !is_optional);
        let oneof = oneof.map(|index| message.oneof_decl[usize::try_from(index).expect("small")].name().to_owned());
        let kind = match field.r#type() {
            Type::Message => field.type_name().trim_start_matches(".redir.v1.").to_owned(),
            other => format!("{other:?}").to_lowercase(),
        };
        (format!("{label}{kind} {} = {}", field.name(), field.number()), oneof)
    };
    message.field.iter().map(field).collect()
}

/// Reads the macro and the enumerations below it line by line; what it does not know fails.
fn of_source() -> Messages {
    let (_, rest) = SOURCE.split_once("messages! {\n").expect("the macro");
    let (messages, enums) = rest.split_once("\n}\n").expect("its end");
    let oneofs = oneofs(enums);
    let mut all = Messages::new();
    let mut name = String::new();
    for line in code_lines(messages) {
        if let Some(empty) = line.strip_suffix(" {}") {
            all.insert(empty.to_owned(), BTreeSet::new());
        } else if let Some(begun) = line.strip_suffix(" {") {
            begun.clone_into(&mut name);
            all.insert(name.clone(), BTreeSet::new());
        } else if line != "}" {
            let (attribute, rest) = line.strip_prefix("#[prost(").and_then(|line| line.split_once(")] ")).expect(line);
            let (field, kind) = rest.trim_end_matches(',').split_once(": ").expect(line);
            let fields = all.get_mut(&name).expect("a message");
            match value(attribute, "oneof") {
                Some(oneof) => {
                    let variants = &oneofs[oneof];
                    let tags: Vec<String> = variants.iter().map(|(_, tag)| tag.to_string()).collect();
                    assert_eq!(value(attribute, "tags"), Some(tags.join(", ").as_str()), "{line}");
                    fields.extend(variants.iter().map(|(variant, _)| (variant.clone(), Some(field.to_owned()))));
                }
                None => {
                    let tag = value(attribute, "tag").expect(line);
                    let has = |word: &str| attribute.split(", ").any(|part| part == word);
                    let is_message = has("message");
                    let label = match (has("repeated"), has("optional") && !is_message) {
                        (true, _) => "repeated ",
                        (false, true) => "optional ",
                        (false, false) => "",
                    };
                    let scalar = attribute.split([',', ' ']).next().expect("a type");
                    let kind = if is_message { inner(kind) } else { scalar };
                    fields.insert((format!("{label}{kind} {field} = {tag}"), None));
                }
            }
        }
    }
    all
}

/// The variants of each oneof, and their numbers.
fn oneofs(source: &str) -> BTreeMap<&str, Vec<(String, u32)>> {
    let mut oneofs = BTreeMap::new();
    for part in source.split("pub(crate) enum ").skip(1) {
        let (name, rest) = part.split_once(" {\n").expect("a body");
        let (body, _) = rest.split_once("\n}").expect("its end");
        let lines: Vec<&str> = code_lines(body).collect();
        let variants = lines.chunks(2).map(|pair| {
            let (attribute, variant) = (pair[0], pair[1]);
            let attribute =
                attribute.strip_prefix("#[prost(").and_then(|text| text.strip_suffix(")]")).expect("prost's");
            let (variant, kind) = variant.trim_end_matches("),").split_once('(').expect("one field");
            let scalar = attribute.split([',', ' ']).next().expect("a type");
            let kind = if scalar == "message" { inner(kind) } else { scalar };
            let tag = value(attribute, "tag").expect("a number").parse().expect("a number");
            (format!("{kind} {} = {tag}", snake_case(variant)), tag)
        });
        oneofs.insert(name, variants.collect());
    }
    oneofs
}

/// Without comments, derives and blank lines.
fn code_lines(source: &str) -> impl Iterator<Item = &str> {
    let is_code = |line: &&str| !line.is_empty() && !line.starts_with("//") && !line.starts_with("#[derive");
    source.lines().map(str::trim).filter(is_code)
}

/// `10, 11` of `oneof = "X", tags = "10, 11"`.
fn value<'a>(attribute: &'a str, key: &str) -> Option<&'a str> {
    attribute.split_once(&format!("{key} = \""))?.1.split('"').next()
}

/// `Filter` of `Option<Filter>`.
fn inner(kind: &str) -> &str {
    kind.rsplit('<').next().unwrap_or(kind).trim_end_matches('>')
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for (index, letter) in name.char_indices() {
        if letter.is_ascii_uppercase() && index > 0 {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}
