//! ELF and BTF objects: programs, map definitions, relocation, CO-RE.
