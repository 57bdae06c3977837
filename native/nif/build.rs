//! Linker flags of the NIF library.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    match std::env::var("CARGO_CFG_TARGET_OS").as_deref() {
        // Never unload: balancers outlive the module version that made them, and they hold
        // pointers to this library's code (see src/library.rs). On macOS a library with
        // thread-local destructors, as this one, is not unloaded either.
        Ok("linux") => println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete"),
        // The enif_ functions are in the emulator that loads the library.
        Ok("macos") => println!("cargo::rustc-cdylib-link-arg=-Wl,-undefined,dynamic_lookup"),
        _ => {}
    }
}
