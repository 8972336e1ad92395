//! TLS keys from Secrets that were granted.

use super::*;

/// TLS is read with the app's own certificate from a Secret, once its name is granted and not before.
#[test]
fn a_granted_secret_lets_the_agent_read_tls() -> Result<()> {
    let mut world = AgentCluster::new()?;
    let certificate = Certificate::new()?;
    let data = json!({"tls.crt": fs::read_to_string(certificate.cert_file())?, "tls.key": certificate.key()});
    for name in ["web-tls", "other-tls"] {
        let secret = json!({"metadata": {"name": name}, "type": "kubernetes.io/tls", "stringData": data});
        world.create::<Secret>(SHOP, &secret)?;
    }
    world.pod_that_mounts(0, &json!([{"name": "tls", "secret": {"secretName": "web-tls"}}]))?;
    let host = &world.topology.pods[0];
    world.apps.push(App::secure_on(&host.namespace, &[host.at(Family::V4, PORT)], "green", certificate.server()?)?);
    world.give_address(0)?;
    let alice = Identity::generate()?;
    let intercept = world.intercept("mine", &alice, &filtered("alice"))?;
    let told = world.status("mine", "waiting", |entry| entry.state == AgentState::Waiting)?;
    let developer = world.dial(&told, &alice, &[&intercept])?;
    let fate = |heard: &ToDeveloper| match heard {
        ToDeveloper::Intercept(state) => Some(state.pods.first()?.tls.clone()?.handling),
        _ => None,
    };
    let unread = developer.hears("what happens to TLS", fate)?;
    assert_eq!(unread, TlsHandling::Unread, "nothing is granted yet");
    assert!(world.get_securely(0, &certificate, &["x-user: alice"])?.starts_with("green"), "end to end, unread");

    // What is not among the role's names, and what no pod mounts, stays out of reach.
    let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"], "resourceNames": ["web-tls"]}]);
    world.create::<Role>(SHOP, &json!({"metadata": {"name": "redir-tls"}, "rules": rules}))?;
    let began = Instant::now();
    world.create::<RoleBinding>(
        SHOP,
        &json!({
            "metadata": {"name": "redir-tls"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "redir-tls"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "agent"}],
        }),
    )?;
    wait::until_true("the grant to be noticed", 2 * SOON, || {
        Ok(world.get_securely(0, &certificate, &["x-user: alice"])?.starts_with("blue"))
    })?;
    eprintln!("from the grant to the first request that is read: {:?}", began.elapsed());
    assert!(world.get_securely(0, &certificate, &["x-user: bob"])?.starts_with("green"));
    developer.hears("that it is decrypted", |heard| fate(heard).filter(|fate| *fate == TlsHandling::Decrypted))?;
    let log = world.agent().log();
    assert!(!log.contains("PRIVATE KEY"), "no key in the log");
    Ok(())
}
