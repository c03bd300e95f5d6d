import { $ } from "bun";

/** The settings of a commit, whatever the user's own are. */
export const author = [
  "user.name=test",
  "user.email=test@localhost",
  "commit.gpgsign=false",
  "core.hooksPath=/dev/null",
].flatMap((setting) => ["-c", setting]);

/** Creates a repository, of the folder or one around it, and commits `src` on a branch. */
export async function commit(
  folder: string,
  branch: string,
  top = folder,
): Promise<void> {
  await $`git init --quiet`.cwd(top);
  await $`git checkout --quiet -B ${branch}`.cwd(folder);
  await $`git add --all -- src`.cwd(folder);
  await $`git ${author} commit --quiet --message=test`.cwd(folder);
}
