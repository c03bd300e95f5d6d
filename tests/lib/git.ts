import { $ } from "bun";

export const author = [
  "-c",
  "user.name=test",
  "-c",
  "user.email=test@localhost",
];

/** Creates a repository and commits `src` on a branch. */
export async function commit(folder: string, branch: string): Promise<void> {
  await $`git init --quiet`.cwd(folder);
  await $`git checkout --quiet -B ${branch}`.cwd(folder);
  await $`git add --all -- src`.cwd(folder);
  await $`git ${author} commit --quiet --message=test`.cwd(folder);
}
