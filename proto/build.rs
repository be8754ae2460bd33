//! Compiles the schemas with `protox`, so that building needs no `protoc` for our own formats.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let schemas = [
        "schema/transport.proto",
        "schema/queue.proto",
        "schema/metadata.proto",
        "schema/node.proto",
    ];
    for schema in schemas {
        println!("cargo::rerun-if-changed={schema}");
    }
    let descriptors = protox::compile(schemas, ["schema"])?;
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
