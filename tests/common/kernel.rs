//! An older kernel, as far as a program can tell.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::common::{Daemon, Emulator, How, directory};

/// What gives a program such a kernel.
pub struct OldKernel {
    directory: TempDir,
}

impl OldKernel {
    /// Its `call`, which is `getsockopt` or `setsockopt`, has no such option of sockets. `None` where there is no C compiler,
    /// which is said.
    pub fn without(call: &str, option: i32, test: &str) -> Option<Self> {
        let kernel = Self { directory: directory() };
        let source = kernel.directory.path().join("old.c");
        // The two calls differ only in what a pointer is.
        fs::write(
            &source,
            format!(
                "#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <errno.h>\n\
                 int {call}(int fd, int level, int name, void *value, void *length) {{\n\
                 if (level == 1 && name == {option}) {{ errno = ENOPROTOOPT; return -1; }}\n\
                 int (*real)(int, int, int, void *, void *) = dlsym(RTLD_NEXT, \"{call}\");\n\
                 return real(fd, level, name, value, length); }}\n"
            ),
        )
        .unwrap();
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .args([&kernel.library(), &source])
            .status();
        if compiled.is_ok_and(|status| status.success()) {
            return Some(kernel);
        }
        eprintln!("SKIPPED {test}: no C compiler");
        None
    }

    /// For `LD_PRELOAD`.
    pub fn library(&self) -> PathBuf {
        self.directory.path().join("old.so")
    }

    pub fn daemon(&self, emulator: &Emulator, config: &str) -> Daemon {
        let preload = format!("export LD_PRELOAD={}", self.library().display());
        let how = How {
            shell: Some(preload.leak()),
            ..How::default()
        };
        Daemon::start_how(emulator, config, how)
    }
}
