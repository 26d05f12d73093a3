//! Lines for the terminal that they are printed on.

use std::io::stdout;
use std::os::fd::AsFd;

use terminal_size::{Width, terminal_size_of};

/// How many columns the terminal of standard output has; none where no terminal reads, which wants its lines whole.
pub fn width() -> Option<usize> {
    width_of(stdout())
}

/// Likewise for another stream.
pub fn width_of(stream: impl AsFd) -> Option<usize> {
    terminal_size_of(stream).map(|(Width(columns), _)| columns.into())
}

/// The line, broken between words where it is too long, with what follows indented by `hanging`. What stands between
/// backticks is to be pasted and stays whole, and so does a longer word.
pub fn wrapped(line: &str, width: Option<usize>, hanging: usize) -> String {
    let Some(width) = width.filter(|width| line.chars().count() > *width) else {
        return line.to_owned();
    };
    let (mut text, mut column, mut is_quoted) = (String::new(), 0, false);
    let words = line.split_inclusive(|c| {
        is_quoted ^= c == '`';
        c == ' ' && !is_quoted
    });
    for word in words {
        if column > hanging && column + word.trim_end().chars().count() > width {
            text.truncate(text.trim_end().len());
            text += "\n";
            text += &" ".repeat(hanging);
            column = hanging;
        }
        text += word;
        column += word.chars().count();
    }
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_broken_between_words_and_not_in_what_is_to_be_pasted() {
        for (line, width, broken) in [
            ("a bc def", Some(8), "a bc def"),
            ("a bc def", None, "a bc def"),
            ("a bc def", Some(7), "a bc\n  def"),
            ("a bc def", Some(4), "a bc\n  def"),
            ("ok  é ééé é", Some(9), "ok  é ééé\n  é"),
            ("  of a verylongword x", Some(9), "  of a\n  verylongword\n  x"),
            ("do `ls -l /` or `ls`.", Some(14), "do `ls -l /`\n  or `ls`."),
            ("do `ls -l / /tmp` now", Some(12), "do\n  `ls -l / /tmp`\n  now"),
        ] {
            assert_eq!(wrapped(line, width, 2), broken);
        }
    }
}
