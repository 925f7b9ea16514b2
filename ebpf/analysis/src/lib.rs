//! Abstract interpretation: facts about every instruction.
