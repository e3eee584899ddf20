#include "checkpoint/carry_over.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors_writer.h"
#include "tests/checkpoint/scratch.h"

namespace quern::checkpoint {
namespace {
namespace fs = std::filesystem;

struct Source {
  Scratch scratch;
  Source() {
    scratch.write("config.json", "{}");
    write_safetensors(scratch / "model.safetensors", {{"a", at::ones({2})}});
  }
};

TEST(CarryOver, TakesEveryFileOfARealFolderButItsWeights) {
  Scratch out;
  Checkpoint source(fs::path(QUERN_SOURCE_DIR) / "tests/data/tiny-qwen3.6");
  CarriedOver carried = copy_other_files(source, out.path(), {"config.json"});
  EXPECT_EQ(carried.weights, (std::vector<fs::path>{"model-00001-of-00002.safetensors",
                                                    "model-00002-of-00002.safetensors",
                                                    "model.safetensors.index.json"}));
  EXPECT_EQ(carried.copied.size() + carried.weights.size() + 1, source.files().size());
  for (const fs::path& file : carried.copied)
    EXPECT_EQ(slurp(out / file), slurp(source.folder() / file)) << file;
  EXPECT_TRUE(fs::exists(out / "tokenizer.json"));
  EXPECT_FALSE(fs::exists(out / "config.json"));
  EXPECT_FALSE(fs::exists(out / "model.safetensors.index.json"));
}

TEST(CarryOver, KeepsSubfoldersAndLeavesOutTheDownloaderStraces) {
  Source source;
  Scratch out;
  source.scratch.write("additional_chat_templates/tools.jinja", "{{ x }}");
  source.scratch.write("a/b/modeling.py", "pass");
  source.scratch.write(".gitattributes", "*");
  source.scratch.write(".git/config", "secret");
  source.scratch.write(".cache/huggingface/x.lock", "");
  source.scratch.write("original/consolidated.00.pth", "weights");
  source.scratch.write("empty.txt", "");
  CarriedOver carried = copy_other_files(Checkpoint(source.scratch.path()), out.path());
  EXPECT_EQ(carried.copied, (std::vector<fs::path>{".gitattributes", "a/b/modeling.py",
                                                   "additional_chat_templates/tools.jinja",
                                                   "config.json", "empty.txt"}));
  EXPECT_EQ(carried.weights,
            (std::vector<fs::path>{"model.safetensors", "original/consolidated.00.pth"}));
  EXPECT_EQ(slurp(out / "a/b/modeling.py"), "pass");
}

TEST(CarryOver, RefusesALinkOutOfTheFolder) {
  Source source;
  Scratch out, outside;
  outside.write("secret.txt", "secret");
  outside.write("more/secret.txt", "secret");
  fs::create_symlink(outside / "more", source.scratch / "folder");  // not entered
  EXPECT_EQ(copy_other_files(Checkpoint(source.scratch.path()), out.path()).copied,
            std::vector<fs::path>{"config.json"});
  fs::create_symlink(outside / "secret.txt", source.scratch / "README.md");
  EXPECT_NE(error_of([&] {
              copy_other_files(Checkpoint(source.scratch.path()), out.path());
            }).find("README.md: the link leads out"),
            std::string::npos);
  EXPECT_FALSE(fs::exists(out / "README.md"));
}

}  // namespace
}  // namespace quern::checkpoint
