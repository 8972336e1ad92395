//! A picture of a terminal: lines with their colours as an SVG that scales. Must not: know what the lines say.

use std::env;
use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;

use anstyle_svg::{Term, WIN10_CONSOLE};
use anyhow::{Context, Result};

/// Writes the picture; where sudo runs this, it belongs to who called sudo.
pub(super) fn write(file: &Path, lines: &[String]) -> Result<()> {
    fs::write(file, picture(lines)?)?;
    let id = |name| env::var(name).ok().and_then(|id| id.parse().ok());
    if let (Some(user), Some(group)) = (id("SUDO_UID"), id("SUDO_GID")) {
        chown(file, Some(user), Some(group))?;
    }
    Ok(())
}

fn picture(lines: &[String]) -> Result<String> {
    let text = format!("$ cargo xtask demo\n{}\n", lines.join("\n"));
    // Dim text is hardly to be read on black: a grey of its own.
    let text = text.replace("\x1b[2m", "\x1b[38;5;246m");
    let svg = Term::new().palette(WIN10_CONSOLE).render_svg(&text);
    // Without a view box a page cannot scale it.
    let (head, rest) = svg.split_once('>').context("an SVG begins with a tag")?;
    let size = |name: &str| {
        let (_, value) = head.split_once(&format!("{name}=\""))?;
        value.split_once("px").map(|(number, _)| number)
    };
    let (width, height) = size("width").zip(size("height")).context("an SVG of a terminal has a size")?;
    Ok(format!("{head} viewBox=\"0 0 {width} {height}\">{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_and_text_are_kept_and_the_picture_scales() {
        let svg = picture(&["1  a \x1b[32mgreen\x1b[0m <pod>".to_owned()]).expect("a picture");
        assert!(svg.contains("viewBox=\"0 0 ") && svg.contains("class=\"fg-green\">green<"), "{svg}");
        assert!(svg.contains("&lt;pod&gt;") && !svg.contains('\x1b'), "{svg}");
    }
}
