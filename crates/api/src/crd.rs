//! The CustomResourceDefinition: the schema that Rust's types make, as servers want it, with its rules.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool, ValidationRule,
};
use kube::CustomResourceExt;

use crate::{Intercept, limits};

/// Rust's integers that Kubernetes has no name for: the format that it has, and the largest value. It warns of others.
const INTEGERS: [(&str, &str, f64); 3] =
    [("uint8", "int32", 255.0), ("uint16", "int32", 65_535.0), ("uint32", "int64", 4_294_967_295.0)];
/// What a selector's expression can say.
const OPERATORS: [&str; 4] = ["In", "NotIn", "Exists", "DoesNotExist"];

/// What is installed.
pub fn definition() -> CustomResourceDefinition {
    let mut definition = Intercept::crd();
    for version in &mut definition.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            make_plain(schema);
            let Some(spec) = property(schema, "spec") else { continue };
            spec.x_kubernetes_validations = Some(rules());
            property(spec, "selector").into_iter().for_each(bound_selector);
        }
    }
    definition
}

/// Gives every integer a format that the server knows, and the bounds that its own format implied. And takes no null for a
/// value: the server drops it then, and neither `oneOf` nor a policy's `has()` sees a field that is not there.
fn make_plain(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    let format = schema.format.as_deref();
    if let Some((_, known, largest)) = INTEGERS.into_iter().find(|(unknown, ..)| format == Some(unknown)) {
        schema.format = Some(known.to_owned());
        schema.minimum = schema.minimum.or(Some(0.0));
        schema.maximum = schema.maximum.or(Some(largest));
    }
    schema.properties.iter_mut().flat_map(|properties| properties.values_mut()).for_each(make_plain);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        make_plain(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        make_plain(values);
    }
}

/// What schemas of others leave open: how many labels and expressions a selector has, and how long they are. Of a map's keys
/// no schema bounds the length: the rule on all text does.
fn bound_selector(selector: &mut JSONSchemaProps) {
    if let Some(labels) = property(selector, "matchLabels") {
        labels.max_properties = number(limits::LABELS);
        if let Some(JSONSchemaPropsOrBool::Schema(value)) = &mut labels.additional_properties {
            value.max_length = number(limits::LABEL_VALUE);
        }
    }
    let Some(expressions) = property(selector, "matchExpressions") else { return };
    expressions.max_items = number(limits::EXPRESSIONS);
    let Some(JSONSchemaPropsOrArray::Schema(expression)) = &mut expressions.items else { return };
    if let Some(key) = property(expression, "key") {
        key.max_length = number(limits::LABEL_KEY);
    }
    if let Some(operator) = property(expression, "operator") {
        operator.enum_ = Some(OPERATORS.map(|operator| JSON(operator.into())).into());
    }
    let Some(values) = property(expression, "values") else { return };
    values.max_items = number(limits::VALUES);
    if let Some(JSONSchemaPropsOrArray::Schema(value)) = &mut values.items {
        value.max_length = number(limits::LABEL_VALUE);
    }
}

/// The server itself refuses a changed spec, and one that is too large although each of its fields is not.
fn rules() -> Vec<ValidationRule> {
    let rule = |rule: String, message: String| ValidationRule { rule, message: Some(message), ..Default::default() };
    vec![
        rule("self == oldSelf".to_owned(), "an Intercept is never changed; delete it and make a new one".to_owned()),
        rule(
            format!("{} <= {}", text(), limits::TEXT),
            format!(
                "filter and selector have more than {} characters together; leave some out, or write one regex for several \
                 values",
                limits::TEXT
            ),
        ),
    ]
}

/// What [`crate::InterceptSpec::check_size`] counts, as CEL.
fn text() -> String {
    let sum = |has: &str, list: &str, variable: &str, size: &str| {
        format!("(has(self.{has}) && has(self.{has}.{list}) ? self.{has}.{list}.map({variable}, {size}).sum() : 0)")
    };
    let fields =
        ["header", "query", "cookie", "baggage"].map(|subject| (subject, &["name", "exact", "prefix", "regex"][..]));
    let fields = fields.into_iter().chain([("path", &["exact", "prefix", "regex"][..])]);
    let sizes = fields.flat_map(|(subject, fields)| {
        fields.iter().map(move |field| format!("size(c.?{subject}.?{field}.orValue(''))"))
    });
    let condition = sizes.chain(["size(c.?method.orValue(''))".to_owned()]).collect::<Vec<_>>().join(" + ");
    let expression = "size(e.key) + (has(e.values) ? e.values.map(v, size(v)).sum() : 0)";
    [
        sum("filter", "all", "c", &condition),
        sum("filter", "any", "c", &condition),
        sum("selector", "matchLabels", "k", "size(k) + size(self.selector.matchLabels[k])"),
        sum("selector", "matchExpressions", "e", expression),
    ]
    .join(" + ")
}

fn property<'a>(schema: &'a mut JSONSchemaProps, name: &str) -> Option<&'a mut JSONSchemaProps> {
    schema.properties.as_mut()?.get_mut(name)
}

fn number(most: usize) -> Option<i64> {
    i64::try_from(most).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn schema() -> Value {
        let definition = serde_json::to_value(definition()).expect("JSON");
        definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
    }

    /// What a structural schema must not have: a type, a description or nested properties within oneOf, anyOf, allOf, not.
    fn structural(schema: &Value, path: &str) {
        let Some(object) = schema.as_object() else { return };
        assert!(object.contains_key("type"), "{path} has no type");
        for word in ["oneOf", "anyOf", "allOf"] {
            for branch in object.get(word).and_then(Value::as_array).into_iter().flatten() {
                for key in branch.as_object().expect("a schema").keys() {
                    assert_eq!(key, "required", "{path}.{word}");
                }
            }
        }
        for (name, property) in object.get("properties").and_then(Value::as_object).into_iter().flatten() {
            structural(property, &format!("{path}.{name}"));
        }
        if let Some(items) = object.get("items") {
            structural(items, &format!("{path}[]"));
        }
    }

    #[test]
    fn the_names_are_those_of_the_constants() {
        let definition = definition();
        assert_eq!(definition.metadata.name, Some(format!("{}.{}", crate::PLURAL, crate::GROUP)));
        assert_eq!(definition.spec.names.kind, crate::KIND);
        assert_eq!(definition.spec.versions[0].name, crate::VERSION);
        assert!(definition.spec.versions[0].subresources.as_ref().is_some_and(|sub| sub.status.is_some()));
    }

    #[test]
    fn the_schema_is_structural() {
        structural(&schema(), "");
    }

    /// Every `format` of a schema, with what stands beside it.
    fn formats(schema: &Value, found: &mut Vec<Value>) {
        match schema {
            Value::Object(fields) => {
                found.extend(fields.get("format").filter(|format| format.is_string()).map(|_| schema.clone()));
                fields.values().for_each(|field| formats(field, found));
            }
            Value::Array(entries) => entries.iter().for_each(|entry| formats(entry, found)),
            _ => (),
        }
    }

    #[test]
    fn every_format_is_one_that_servers_know_and_no_range_is_lost() {
        let mut found = Vec::new();
        formats(&schema(), &mut found);
        let known = ["int32", "int64", "date-time"];
        assert!(found.iter().all(|one| known.iter().any(|known| one["format"] == *known)), "{found:?}");
        let agent = &schema()["properties"]["status"]["properties"]["agents"]["items"]["properties"];
        let bounds = |number: &Value| (number["format"].clone(), number["minimum"].clone(), number["maximum"].clone());
        assert_eq!(bounds(&agent["protocol"]), (json!("int64"), json!(0.0), json!(4_294_967_295.0)));
        let port = &agent["pods"]["items"]["properties"]["port"];
        assert_eq!(bounds(port), (json!("int32"), json!(0.0), json!(65_535.0)));
    }

    #[test]
    fn no_null_is_a_value() {
        assert!(!schema().to_string().contains("nullable"));
    }

    #[test]
    fn one_of_two_is_demanded() {
        let schema = schema();
        let spec = &schema["properties"]["spec"];
        assert_eq!(spec["oneOf"], json!([{"required": ["target"]}, {"required": ["selector"]}]));
        let filter = &spec["properties"]["filter"];
        assert_eq!(filter["oneOf"], json!([{"required": ["all"]}, {"required": ["any"]}]));
        let condition = &filter["properties"]["all"]["items"];
        assert_eq!(condition["oneOf"].as_array().map(Vec::len), Some(6));
        assert_eq!(condition["properties"]["header"]["oneOf"].as_array().map(Vec::len), Some(4));
        let agents = &schema["properties"]["status"]["properties"]["agents"];
        assert_eq!(agents["x-kubernetes-list-map-keys"], json!(["node"]));
    }

    /// Everything in a spec that has a length has a bound, and a type that says which.
    fn bounded(schema: &Value, path: &str) {
        let bound = match schema["type"].as_str() {
            Some("string") if schema.get("enum").is_none() => Some("maxLength"),
            Some("array") => Some("maxItems"),
            Some("object") if schema.get("additionalProperties").is_some() => Some("maxProperties"),
            _ => None,
        };
        if let Some(bound) = bound {
            assert!(schema[bound].is_number(), "{path} has no {bound}");
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            bounded(property, &format!("{path}.{name}"));
        }
        for (inner, name) in [("items", "[]"), ("additionalProperties", "{}")] {
            if let Some(inner) = schema.get(inner) {
                bounded(inner, &format!("{path}{name}"));
            }
        }
    }

    #[test]
    fn everything_in_a_spec_is_bounded() {
        bounded(&schema()["properties"]["spec"], "spec");
    }

    #[test]
    fn a_spec_has_its_rules() {
        let rules = schema()["properties"]["spec"]["x-kubernetes-validations"].clone();
        assert_eq!(rules[0]["rule"], "self == oldSelf");
        let size = rules[1]["rule"].as_str().expect("a rule");
        assert!(size.ends_with("<= 4096") && size.matches("size(").count() == 2 * 20 + 4, "{size}");
    }
}
