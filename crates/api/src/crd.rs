//! The CustomResourceDefinition, for servers with and without validation rules.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, ValidationRule,
};
use kube::CustomResourceExt;

use crate::Intercept;

/// For every server that has `apiextensions.k8s.io/v1` (1.16 and newer).
pub fn definition() -> CustomResourceDefinition {
    Intercept::crd()
}

/// For servers that check CEL rules (on by default since 1.25; older ones refuse the field): a spec never changes.
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
