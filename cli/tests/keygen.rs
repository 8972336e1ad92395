//! Key files: made once, readable by their owner alone, never written over.

mod common;

use common::{Home, assert_one_sentence};

#[test]
fn a_key_is_made_and_named() {
    let home = Home::new();
    let output = home.run(&["keygen"]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let start = text.find("[[developer]]").unwrap();
    let lines: toml::Table = text[start..].parse().unwrap();
    let developer = &lines["developer"][0];
    assert_eq!(developer["name"].as_str(), Some("alice"));
    let pin = developer["key"].as_str().unwrap();
    assert!(pin.starts_with("sha256:") && pin.len() == 50, "{pin}");

    let before = std::fs::read(home.config().join("key")).unwrap();
    let (code, again) = home.refusal(&["keygen"]);
    assert_eq!(code, Some(1));
    assert_one_sentence(&again);
    assert!(again.contains(pin), "the key's name helps whoever lost it: {again}");
    assert_eq!(std::fs::read(home.config().join("key")).unwrap(), before);
    let files = std::fs::read_dir(home.config()).unwrap().count();
    assert_eq!(files, 1, "something half-done is left");
}

#[cfg(unix)]
#[test]
fn the_mode_is_0600_and_a_wider_one_is_refused() {
    use std::os::unix::fs::PermissionsExt;

    let home = Home::new();
    let key = home.path().join("some/where/key");
    let name = key.to_str().unwrap();
    assert!(home.run(&["keygen", name]).status.success());
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o7777, 0o600);
    let pin = "sha256:47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU";
    for mode in [0o640, 0o604, 0o660, 0o700, 0o777] {
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
        let (code, text) = home.refusal(&["list", "--agent", "127.0.0.1:1", "--agent-key", pin, "--key", name]);
        assert_eq!(code, Some(2), "mode {mode:o}");
        assert_one_sentence(&text);
        assert!(text.contains(&format!("chmod 600 {name}")), "{text}");
    }
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let home = Home::new();
    let file = home.path().join("file");
    std::fs::write(&file, "").unwrap();
    let (code, text) = home.refusal(&["keygen", file.join("key").to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert_one_sentence(&text);
    assert!(text.contains("file"), "{text}");
}
