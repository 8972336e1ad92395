//! The CustomResourceDefinition, with and without its validation rule.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool, ValidationRule,
};
use kube::CustomResourceExt;

use crate::Intercept;

/// Rust's integers that Kubernetes has no name for: the format that it has, and the largest value. It warns of others.
const INTEGERS: [(&str, &str, f64); 3] =
    [("uint8", "int32", 255.0), ("uint16", "int32", 65_535.0), ("uint32", "int64", 4_294_967_295.0)];

/// Without the rule that a spec never changes: what is left for the agents to check.
pub fn definition() -> CustomResourceDefinition {
    let mut definition = Intercept::crd();
    for version in &mut definition.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            make_plain(schema);
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

/// What is installed: the server itself refuses a changed spec.
pub fn definition_with_rules() -> CustomResourceDefinition {
    let mut definition = definition();
    for version in &mut definition.spec.versions {
        if let Some(spec) = version.schema.as_mut().and_then(|schema| spec(schema.open_api_v3_schema.as_mut()?)) {
            spec.x_kubernetes_validations = Some(vec![ValidationRule {
                rule: "self == oldSelf".to_owned(),
                message: Some("an Intercept is never changed; delete it and make a new one".to_owned()),
                ..ValidationRule::default()
            }]);
        }
    }
    definition
}

fn spec(schema: &mut JSONSchemaProps) -> Option<&mut JSONSchemaProps> {
    schema.properties.as_mut()?.get_mut("spec")
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

    #[test]
    fn rules_are_only_in_the_definition_for_new_servers() {
        assert!(!serde_json::to_string(&definition()).expect("JSON").contains("x-kubernetes-validations"));
        assert!(serde_json::to_string(&definition_with_rules()).expect("JSON").contains("self == oldSelf"));
    }
}
